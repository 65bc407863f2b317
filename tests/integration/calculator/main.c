#include "calc.h"

#include <stdio.h>
#include <string.h>

int main(int count, char **words)
{
    FILE *output = stdout;
    int first = 1;
    if (count > 2 && !strcmp(words[1], "-o")) {
        output = fopen(words[2], "w");
        first = 3;
    }
    if (output == NULL || first == count) {
        fprintf(stderr, "usage: calc [-o FILE] EXPRESSION...\n");
        return 2;
    }
    for (int n = first; n < count; n++) {
        double value;
        const char *wrong = evaluate(words[n], &value);
        if (wrong != NULL) {
            fprintf(stderr, "calc: %s: %s\n", words[n], wrong);
            return 1;
        }
        fprintf(output, "%.12g\n", value);
    }
    return fclose(output) == 0 ? 0 : 1;
}
