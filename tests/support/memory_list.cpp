// Takes and gives back memory of csrc/cpu/memory.h in several threads, which write to every page of what they have, and
// forks meanwhile.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "memory.h"

namespace {

using namespace alexkern;

void check(bool right) {
    if (!right) std::abort();
}

void fill(const memory::Block& block, char with) {
    for (std::size_t at = 0; at < block.bytes; at += 512) static_cast<char*>(block.start)[at] = with;
    static_cast<char*>(block.start)[block.bytes - 1] = with;
}

void work(char number, int turns) {
    std::vector<memory::Block> held;
    for (int turn = 0; turn < turns; ++turn) {
        held.push_back(memory::take(std::size_t(1 + turn % 5) << 18));
        fill(held.back(), number);
        if (held.size() < 3) continue;
        for (std::size_t at = 0; at < held[0].bytes; at += 512) {
            check(static_cast<char*>(held[0].start)[at] == number);
        }
        memory::give_back(held[0]);
        held.erase(held.begin());
        if (turn % 50 == 0) memory::release();
    }
    for (const memory::Block& block : held) memory::give_back(block);
}

}  // namespace

int main() {
    memory::keep(std::size_t(3) << 20);
    std::vector<std::thread> threads;
    for (char number = 1; number <= 4; ++number) threads.emplace_back(work, number, 400);
    for (int child = 0; child < 8; ++child) {
        const pid_t id = fork();
        if (id == 0) {
            const bool nothing = memory::use().kept == 0;
            work(9, 10);
            _exit(nothing ? 0 : 1);
        }
        int status = 1;
        check(waitpid(id, &status, 0) == id && status == 0);
    }
    for (std::thread& thread : threads) thread.join();
    check(memory::use().lent == 0 && memory::use().kept <= std::size_t(3) << 20);
    check(memory::take(std::size_t(1) << 62).start == nullptr && memory::use().kept == 0);
    std::printf("all clean\n");
}
