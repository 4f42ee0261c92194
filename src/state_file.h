/*
 * state_file.h - level 6: wake.state_file: the models of machines that can be
 * woken, so that a restart of olla does not forget what sleeps.
 *
 * A line for each model: NAME, MAC, TYPE, MODEL, with tabs between them. Written
 * rarely, because flash wears out, and to another file that then takes the
 * place of the old one. A line that is not whole or not well is skipped, the others count.
 *
 * May include: olla.h, levels 1 to 5, discover.h.
 */
#ifndef OLLA_STATE_FILE_H
#define OLLA_STATE_FILE_H

#include <stdint.h>

/* At start, when the endpoints are known and nothing of their models is. */
void state_file_read(void);

/* Writes if something has changed and it is time. Returns when it wants to be called again. */
uint64_t state_file_tick(void);

/* Writes what has changed: olla stops, or is about to write to another file. */
void state_file_flush(void);

#endif
