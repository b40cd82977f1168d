// All filters of a convolution, to their points.
#include "pack.h"

#include "../parallel.h"

namespace alexkern::winograd {

namespace {

using namespace ALEXKERN_ISA;

template <typename T, int M, int R>
void pack_filters(const Pack& call) {
    const Shape& of = call.shape;
    const Index panels = ceil_div(of.K, FILTERS), parts = FILTERS / LANES, points = of.points();
    parallel(call.threads, of.groups * panels * parts, of.C * points * LANES, [&](Index begin, Index end) {
        for (Index unit = begin; unit < end; ++unit) {
            const Index group = unit / parts / panels, panel = unit / parts % panels;
            T* filters = static_cast<T*>(call.filters) + unit / parts * points * panel_size<T>(of);
            pack_lanes<M, R>(of, call.weight, group, panel, unit % parts * LANES, filters);
        }
    });
}

}  // namespace

template <>
void pack<Isa::ALEXKERN_ISA>(const Pack& call) {
    on_tiles(call.shape, [&](auto number, auto M, auto R) { pack_filters<decltype(number), M, R>(call); });
}

}  // namespace alexkern::winograd
