#include "calc.h"

#include <math.h>
#include <string.h>

enum { MAX_DEPTH = 200 };

struct parser {
    const char *at;
    struct token token;
    const char *wrong;
    int depth;
};

static double sum(struct parser *parser);

static void advance(struct parser *parser)
{
    parser->token = next_token(&parser->at);
}

static int sees(const struct parser *parser, char sign)
{
    return parser->token.kind == SIGN && *parser->token.text == sign;
}

static double fail(struct parser *parser, const char *wrong)
{
    if (parser->wrong == NULL)
        parser->wrong = wrong;
    return 0;
}

static double parenthesis(struct parser *parser)
{
    if (!sees(parser, '('))
        return fail(parser, "( expected");
    advance(parser);
    double value = sum(parser);
    if (!sees(parser, ')'))
        return fail(parser, ") expected");
    advance(parser);
    return value;
}

static double atom(struct parser *parser)
{
    struct token token = parser->token;
    double value = token.number;
    if (token.kind == NUMBER) {
        advance(parser);
        return value;
    }
    if (token.kind != NAME)
        return parenthesis(parser);
    advance(parser);
    if (token.length == 2 && !strncmp(token.text, "pi", 2))
        return acos(-1);
    double argument = parenthesis(parser);
    if (call(token.text, token.length, argument, &value) != 0)
        return fail(parser, "no such function");
    return value;
}

/* -2 ^ 2 is -4 and 2 ^ 3 ^ 2 is 2 ^ 9, as in mathematics. */
static double power(struct parser *parser)
{
    double value = 0;
    if (++parser->depth > MAX_DEPTH) {
        fail(parser, "nested too deeply");
    } else if (sees(parser, '-')) {
        advance(parser);
        value = -power(parser);
    } else {
        value = atom(parser);
        if (sees(parser, '^')) {
            advance(parser);
            value = pow(value, power(parser));
        }
    }
    parser->depth--;
    return value;
}

static double product(struct parser *parser)
{
    double value = power(parser);
    while (parser->wrong == NULL && (sees(parser, '*') || sees(parser, '/'))) {
        int divide = sees(parser, '/');
        advance(parser);
        double other = power(parser);
        value = divide ? value / other : value * other;
    }
    return value;
}

static double sum(struct parser *parser)
{
    double value = product(parser);
    while (parser->wrong == NULL && (sees(parser, '+') || sees(parser, '-'))) {
        int subtract = sees(parser, '-');
        advance(parser);
        double other = product(parser);
        value = subtract ? value - other : value + other;
    }
    return value;
}

const char *evaluate(const char *text, double *value)
{
    struct parser parser = {.at = text};
    advance(&parser);
    *value = sum(&parser);
    if (parser.wrong == NULL && parser.token.kind != END)
        parser.wrong = "operator expected";
    return parser.wrong;
}
