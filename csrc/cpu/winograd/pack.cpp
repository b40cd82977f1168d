// All filters of a convolution, to their points.
#include "pack.h"

#include "../parallel.h"

namespace alexkern::winograd {

namespace {

using namespace ALEXKERN_ISA;

template <int R>
void pack_filters(const Pack& call) {
    constexpr int P = R + 1;
    const Shape& of = call.shape;
    const Index panels = ceil_div(of.K, FILTERS), parts = FILTERS / LANES;
    parallel(call.threads, of.groups * panels * parts, of.C * P * P * LANES, [&](Index begin, Index end) {
        for (Index unit = begin; unit < end; ++unit) {
            const Index group = unit / parts / panels, panel = unit / parts % panels;
            float* filters = call.filters + unit / parts * P * P * of.C * FILTERS;
            pack_lanes<R>(of, call.weight, group, panel, unit % parts * LANES, filters);
        }
    });
}

}  // namespace

template <>
void pack<Isa::ALEXKERN_ISA>(const Pack& call) {
    call.shape.R == 3 ? pack_filters<3>(call) : pack_filters<5>(call);
}

}  // namespace alexkern::winograd
