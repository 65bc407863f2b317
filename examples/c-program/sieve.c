#include "sieve.h"

#include <stdlib.h>

int sieve(size_t limit, void (*found)(size_t prime))
{
    unsigned char *composite = calloc(limit + 1, 1);
    if (composite == NULL)
        return -1;
    for (size_t n = 2; n <= limit; n++) {
        if (composite[n])
            continue;
        found(n);
        for (size_t multiple = 2 * n; multiple <= limit; multiple += n)
            composite[multiple] = 1;
    }
    free(composite);
    return 0;
}
