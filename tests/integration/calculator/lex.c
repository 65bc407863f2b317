#include "calc.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct token next_token(const char **at)
{
    while (isspace((unsigned char)**at))
        ++*at;
    struct token token = {BAD, 0, *at, 1};
    if (**at == '\0') {
        token.kind = END;
        token.length = 0;
    } else if (isdigit((unsigned char)**at) || **at == '.') {
        char *end;
        token.number = strtod(*at, &end);
        token.length = (size_t)(end - *at);
        token.kind = token.length ? NUMBER : BAD;
    } else if (isalpha((unsigned char)**at)) {
        while (isalnum((unsigned char)(*at)[token.length]))
            token.length++;
        token.kind = NAME;
    } else if (strchr("+-*/^()", **at)) {
        token.kind = SIGN;
    }
    *at += token.length;
    return token;
}
