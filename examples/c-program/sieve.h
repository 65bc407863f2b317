#ifndef SIEVE_H
#define SIEVE_H

#include <stddef.h>

/* Calls `found` with each prime up to `limit`, in order. Returns -1 if there is no memory. */
int sieve(size_t limit, void (*found)(size_t prime));

#endif
