#ifndef CALC_H
#define CALC_H

#include <stddef.h>

enum kind { NUMBER, NAME, SIGN, END, BAD };

struct token {
    enum kind kind;
    double number;
    const char *text;
    size_t length;
};

/* Returns the token at `*at` and moves `*at` behind it. */
struct token next_token(const char **at);

/* Evaluates `text`. Returns NULL and sets `*value`, or returns what is wrong with `text`. */
const char *evaluate(const char *text, double *value);

/* Calls the function of that name. Returns 0, or -1 if there is none. */
int call(const char *name, size_t length, double argument, double *value);

#endif
