#include "sieve.h"

#include <stdio.h>
#include <stdlib.h>

static void print(size_t prime)
{
    printf("%zu\n", prime);
}

int main(int count, char **words)
{
    long limit = count > 1 ? atol(words[1]) : 100;
    if (limit < 2 || limit > 100000000) {
        fprintf(stderr, "usage: primes [LIMIT], a number from 2 to 100000000\n");
        return 2;
    }
    if (sieve((size_t)limit, print) != 0) {
        fprintf(stderr, "primes: no memory for %ld numbers\n", limit);
        return 1;
    }
    return 0;
}
