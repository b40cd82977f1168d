// CUDA C++ on the host: what a kernel's source includes where nvcc is not the compiler.
#pragma once

#ifdef __CUDACC__
#error "nvcc has the real thing: the emulator is for host compilers"
#endif

#include "bulk.h"
#include "cluster.h"
#include "intrinsics.h"
#include "launch.h"
#include "mbarrier.h"
#include "memory.h"
#include "numbers.h"
#include "sync.h"
#include "tensor_core.h"
#include "thread.h"
#include "types.h"
#include "warpgroup.h"
