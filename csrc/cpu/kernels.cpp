// The table of one instruction set.
#include "kernels.h"

#include "simd.h"

namespace alexkern::ALEXKERN_ISA {

void max_pool2d_forward(const max_pool2d::Forward&);
void max_pool2d_backward(const max_pool2d::Backward&);
std::int64_t max_pool2d_workspace(const max_pool2d::Windows&);
void dropout(const alexkern::dropout::Call&);
void linear_relu_dropout_forward(const linear_relu_dropout::Forward&);
void linear_relu_dropout_backward(const linear_relu_dropout::Backward&);
std::int64_t linear_relu_dropout_workspace(const linear_relu_dropout::Sizes&, int);
void local_response_norm(const alexkern::local_response_norm::Call&);
std::int64_t local_response_norm_workspace(const alexkern::local_response_norm::Call&);
std::int64_t multiply_add(const limits::Arithmetic&);
void stream_through(const limits::Stream&);

extern const Kernels kernels;
const Kernels kernels = {ALEXKERN_ISA_NAME,
                         &max_pool2d_forward,
                         &max_pool2d_backward,
                         &max_pool2d_workspace,
                         &dropout,
                         &linear_relu_dropout_forward,
                         &linear_relu_dropout_backward,
                         &linear_relu_dropout_workspace,
                         &local_response_norm,
                         &local_response_norm_workspace,
                         &multiply_add,
                         &stream_through};

}  // namespace alexkern::ALEXKERN_ISA
