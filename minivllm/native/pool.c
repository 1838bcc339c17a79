/* A pool of threads that never waits for one that does not come.
 *
 * Whoever is free takes the next piece of work, and the caller works, too. So if a helper is slow
 * to wake, or another program has its core, the caller does the rest alone; it waits only for
 * pieces that are being worked on. OpenMP's loops end when every thread has arrived: on two cores,
 * with one taken by another program, a step of a small model took five times as long by them.
 *
 * A helper looks for work for some tens of microseconds, as long as the interpreter takes from one
 * call to the next, and then sleeps: between steps the cores are others' (a server's). */
#include "pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

enum { MOST_HELPERS = 255, LOOKS = 2000 /* some 50 microseconds */ };

static pthread_mutex_t callers = PTHREAD_MUTEX_INITIALIZER; /* one at a time has the helpers */
static pthread_mutex_t bed = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t alarm_clock = PTHREAD_COND_INITIALIZER;
static int num_helpers; /* under `callers` */
static _Atomic int sleepers, allowed;

/* Of one job at a time: its number, and below it how many items nobody has taken yet. In one word,
 * so that nobody takes an item of another job than it saw. */
static _Atomic uint64_t state;
static _Atomic int64_t unfinished;
static void (*job_work)(void *, int64_t);
static void *job_what;

/* Work on the job until nothing is left to take. Whether there was something. */
static int take_items(void) {
    int any = 0;
    uint64_t seen = atomic_load_explicit(&state, memory_order_acquire);
    while ((uint32_t)seen) {
        if (!atomic_compare_exchange_weak_explicit(&state, &seen, seen - 1, memory_order_acquire,
                                                   memory_order_acquire))
            continue;
        /* The job stays until this item is done, and with it these two. */
        job_work(job_what, (int64_t)(uint32_t)seen - 1);
        atomic_fetch_sub_explicit(&unfinished, 1, memory_order_release);
        any = 1;
        seen = atomic_load_explicit(&state, memory_order_acquire);
    }
    return any;
}

static void *help(void *number) {
    int64_t mine = (int64_t)number;
    for (int looks = 0;;) {
        if (mine < atomic_load_explicit(&allowed, memory_order_relaxed) && take_items()) looks = 0;
        if (looks++ < LOOKS) {
            PAUSE();
            continue;
        }
        pthread_mutex_lock(&bed);
        atomic_fetch_add(&sleepers, 1); /* before the last look: a caller sees one or the other */
        if (!(uint32_t)atomic_load(&state) || mine >= atomic_load(&allowed))
            pthread_cond_wait(&alarm_clock, &bed);
        atomic_fetch_sub(&sleepers, 1);
        pthread_mutex_unlock(&bed);
        looks = 0;
    }
    return NULL;
}

/* A process that forks has its helpers; the new one has none, whatever they were doing. */
static void forget_helpers(void) {
    num_helpers = 0;
    atomic_store(&sleepers, 0), atomic_store(&state, 0), atomic_store(&unfinished, 0);
    callers = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    bed = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    alarm_clock = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

static void hire(int wanted) {
    static int registered;
    if (!registered) registered = !pthread_atfork(NULL, NULL, forget_helpers);
    while (num_helpers < wanted && num_helpers < MOST_HELPERS) {
        pthread_t thread;
        pthread_attr_t how; /* attention has its tiles on the stack; musl's default is less */
        pthread_attr_init(&how);
        pthread_attr_setstacksize(&how, 2 << 20);
        int failed = pthread_create(&thread, &how, help, (void *)(int64_t)num_helpers);
        pthread_attr_destroy(&how);
        if (failed) return;
        pthread_detach(thread);
        num_helpers++;
    }
}

void run_items(void (*work)(void *what, int64_t item), void *what, int64_t items, int threads) {
    if (threads < 2 || items < 2 || items > UINT32_MAX || pthread_mutex_trylock(&callers)) {
        for (int64_t i = items - 1; i >= 0; i--) work(what, i);
        return;
    }
    hire(threads - 1);
    job_work = work, job_what = what;
    atomic_store(&allowed, threads - 1);
    atomic_store(&unfinished, items);
    atomic_store(&state, ((atomic_load(&state) >> 32) + 1) << 32 | (uint64_t)items);
    if (atomic_load(&sleepers)) {
        pthread_mutex_lock(&bed);
        pthread_cond_broadcast(&alarm_clock);
        pthread_mutex_unlock(&bed);
    }
    take_items();
    for (int looks = 0; atomic_load_explicit(&unfinished, memory_order_acquire); looks++) {
        if (looks < LOOKS) PAUSE();
        else nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL); /* who has no core gets ours */
    }
    pthread_mutex_unlock(&callers);
}
