/* base/json.h: the only includer of jansson.
 * Its contract is its own: https://jansson.readthedocs.io/ */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>

#endif
