/* Work in pieces, for the threads of this process. */
#pragma once
#include <stdint.h>

/* Call work(what, item) for each item below `items`, on up to `threads` threads, this one being
 * one of them; the highest first. Returns when all are done. */
void run_items(void (*work)(void *what, int64_t item), void *what, int64_t items, int threads);
