// The table of one instruction set.
#include "kernels.h"

#include "simd.h"

namespace alexkern::ALEXKERN_ISA {

void max_pool2d_forward(const max_pool2d::Forward&);
void max_pool2d_backward(const max_pool2d::Backward&);
std::int64_t max_pool2d_workspace(const max_pool2d::Windows&);
void dropout(const alexkern::dropout::Call&);
void augment(const alexkern::augment::Call&);
std::int64_t augment_workspace(const alexkern::augment::Call&);
void local_response_norm(const alexkern::local_response_norm::Call&);
std::int64_t local_response_norm_workspace(const alexkern::local_response_norm::Call&);

extern const Kernels kernels;
const Kernels kernels = {
    ALEXKERN_ISA_NAME, &max_pool2d_forward, &max_pool2d_backward, &max_pool2d_workspace,         &dropout,
    &augment,          &augment_workspace,  &local_response_norm, &local_response_norm_workspace};

}  // namespace alexkern::ALEXKERN_ISA
