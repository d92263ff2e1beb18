/* base/config_value.h: one key's value, from YAML to its place in a struct.
 * Private to base/config.c and its tests' subject through it. */
#ifndef BASE_CONFIG_VALUE_H
#define BASE_CONFIG_VALUE_H

#include "base/config.h"
#include "base/config_guess.h"
#include "base/yaml.h"

/* Where a node stands: "name:line:column", or the name alone for values that
 * do not come from a file.  Returns buf. */
#define CONFIG_WHERE_BYTES 300u
const char *config_value_where(char buf[CONFIG_WHERE_BYTES], const char *name,
			       const struct yaml_node *);

/* Sets the field of `values` that the key describes; the field is zero
 * before.  NULL or null node: the default.  is_file: node names a file that
 * holds the value.  Mistakes go to errors; only -ENOMEM is returned. */
MUST_CHECK int config_value_bind(const struct config_key *, void *values,
				 const char *name, const struct yaml_node *,
				 bool is_file, struct config_errors *);
void config_value_clear(const struct config_key *, void *values);
bool config_value_equal(const struct config_key *, const void *a,
			const void *b);
void config_value_print(const struct config_key *, const void *values,
			unsigned indent, FILE *);

#endif
