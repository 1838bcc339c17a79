/* Work in pieces, for the threads of this process. */
#pragma once
#include <stdint.h>

/* Rows or tokens in an item of light work: no sooner is another thread there for the next. */
enum { SOME = 12 };

static inline int64_t items_of(int64_t rows) { return (rows + SOME - 1) / SOME; }
static inline int64_t end_of(int64_t item, int64_t rows) {
    return (item + 1) * SOME < rows ? (item + 1) * SOME : rows;
}

/* Call work(what, item) for each item below `items`, on up to `threads` threads, this one being
 * one of them; the highest first. Returns when all are done. */
void run_items(void (*work)(void *what, int64_t item), void *what, int64_t items, int threads);
