#include "memory.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <mutex>
#include <vector>

namespace alexkern::memory {

namespace {

constexpr std::size_t HUGE_PAGE = std::size_t(2) << 20;

// Of what is kept, a block may serve what is smaller by this factor at most, or grow to what is as much larger.
constexpr std::size_t SLACK = 2;

struct List {
    std::mutex mutex;
    std::vector<Block> kept;  // the longest kept first, with room for all that are lent: no return allocates
    std::size_t blocks = 0;   // kept and lent
    std::size_t limit = 0;
    Use use{0, 0};
};

void lock();
void unlock();
void start_anew();

// Never destroyed: tensors outlive everything at the end of a process.
List& list() {
    static List& only = *[] {
        // A thread that forks holds the list, so that the child finds it whole.
        pthread_atfork(&lock, &unlock, &start_anew);
        return new List;
    }();
    return only;
}

void lock() { list().mutex.lock(); }
void unlock() { list().mutex.unlock(); }

// Of `kept`; the mutex is held.
Block remove(List& from, std::size_t index) {
    const Block block = from.kept[index];
    from.kept.erase(from.kept.begin() + index);
    from.use.kept -= block.bytes;
    return block;
}

void unmap(List& from, Block block) {
    --from.blocks;
    munmap(block.start, block.bytes);
}

// The longest kept go back to the system until no more than `bytes` are left; the mutex is held.
void shrink(List& own, std::size_t bytes) {
    while (own.use.kept > bytes) unmap(own, remove(own, 0));
}

// In the child of a fork, which keeps nothing of its parent's: it would hold the pages that the parent writes next, and
// the parent would have to copy them. What is lent is copied on write, as all memory.
void start_anew() {
    List& own = list();
    shrink(own, 0);
    own.mutex.unlock();
}

// A mapping that begins with a huge page; its end may lie in small ones.
void* map(std::size_t bytes) {
    void* mapped = mmap(nullptr, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    const auto begin = reinterpret_cast<std::uintptr_t>(mapped);
    const std::size_t before = -begin % HUGE_PAGE;
    char* start = static_cast<char*>(mapped) + before;
    if (before > 0) munmap(mapped, before);
    munmap(start + bytes, HUGE_PAGE - before);
#ifdef MADV_HUGEPAGE
    madvise(start, bytes, MADV_HUGEPAGE);  // where the kernel has none, small ones serve
#endif
    return start;
}

// The kept block that serves: the smallest that is large enough, else the largest that may grow. Of equal ones the
// last: more of it may lie in a cache.
std::size_t nearest(const List& from, std::size_t bytes) {
    std::size_t best = from.kept.size();
    for (std::size_t i = 0; i < from.kept.size(); ++i) {
        const std::size_t size = from.kept[i].bytes;
        if (size / SLACK > bytes || size < bytes / SLACK) continue;
        const std::size_t found = best < from.kept.size() ? from.kept[best].bytes : 0;
        if (size >= bytes ? size <= found || found < bytes : size >= found) best = i;
    }
    return best;
}

// Whether the pages of `block` are now the first of the larger mapping at `start`, and the block itself is none.
#ifdef MREMAP_FIXED
bool moved(Block block, void* start, std::size_t bytes) {
    return mremap(block.start, block.bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, start) != MAP_FAILED;
}
#else
bool moved(Block, void*, std::size_t) { return false; }
#endif

}  // namespace

Block take(std::size_t bytes) {
    List& from = list();
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    bytes = (bytes + page - 1) / page * page;
    const std::lock_guard<std::mutex> held(from.mutex);
    std::size_t best = nearest(from, bytes);
    Block block{nullptr, bytes};
    if (best < from.kept.size() && from.kept[best].bytes >= bytes) {
        block = remove(from, best);
    } else {
        from.kept.reserve(from.blocks + 1);
        block.start = map(bytes);
        if (block.start == nullptr) {
            shrink(from, 0);
            block.start = map(bytes);
        }
        if (block.start == nullptr) return block;
        if (best < from.kept.size() && moved(from.kept[best], block.start, bytes)) {
            remove(from, best);
        } else {
            ++from.blocks;
        }
    }
    from.use.lent += block.bytes;
    return block;
}

void give_back(Block block) {
    List& to = list();
    const std::lock_guard<std::mutex> held(to.mutex);
    to.use.lent -= block.bytes;
    to.use.kept += block.bytes;
    to.kept.push_back(block);
    shrink(to, to.limit);
}

void keep(std::size_t bytes) {
    List& own = list();
    const std::lock_guard<std::mutex> held(own.mutex);
    own.limit = bytes;
    shrink(own, bytes);
}

std::size_t release() {
    List& own = list();
    const std::lock_guard<std::mutex> held(own.mutex);
    const std::size_t bytes = own.use.kept;
    shrink(own, 0);
    return bytes;
}

Use use() {
    const std::lock_guard<std::mutex> held(list().mutex);
    return list().use;
}

}  // namespace alexkern::memory
