/*
 * sleep.h - level 6: sends machines to sleep that have had nothing to do for
 * hooks.idle_after: runs the program hooks.idle.
 *
 * Only machines that can be woken (wake.mac), and only when none of their
 * endpoints has work. From the start of the program until it has ended nothing is
 * sent there; requests wait. When it has ended well the machine counts as
 * asleep, and for some seconds is not asked: it may still answer.
 *
 * May include: olla.h, levels 1 to 5, hooks.h.
 */
#ifndef OLLA_SLEEP_H
#define OLLA_SLEEP_H

#include <stdint.h>

/* Starts what is due. Returns when it wants to be called again. */
uint64_t sleep_tick(void);

#endif
