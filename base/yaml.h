/* base/yaml.h: the only user of libyaml.
 *
 * One YAML document read into a tree whose every node knows its line and
 * column, so that whoever judges it can say where it is wrong.  It takes the
 * part of YAML that configuration needs: maps with scalar keys, lists and
 * scalars.  Anchors, aliases, tags and further documents are refused by name,
 * as are duplicate keys.  Scalars stay text; what "on" or "010" means is for
 * the reader of the key to decide, so YAML 1.1's surprises cannot happen.
 *
 * Bounded: YAML_BYTES_MAX of text, YAML_DEPTH_MAX deep, YAML_NODES_MAX nodes,
 * YAML_ITEMS_MAX entries in one map or list.  [any] thread. */
#ifndef BASE_YAML_H
#define BASE_YAML_H

#include <stdbool.h>

#include "base/base.h"

#define YAML_BYTES_MAX (1024u * 1024u)
#define YAML_DEPTH_MAX 16u
#define YAML_NODES_MAX 65536u
#define YAML_ITEMS_MAX 4096u

enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAP };

/* Belongs to its tree; read only. */
struct yaml_node {
	enum yaml_kind kind;
	unsigned line, column; /* from 1 */
	bool quoted;	       /* a scalar in quotes or a block: never null */
	char *text;	       /* of a scalar; else NULL */
	char *key;	       /* in a map; else NULL */
	unsigned key_line, key_column;
	struct yaml_node *first, *next; /* children, siblings */
	unsigned count;			/* of children */
};

struct yaml_tree;

/* len bytes of UTF-8 text.  On failure the result is -E_CORRUPT (not YAML, or
 * a part of it that is not taken), -E_LIMIT or -ENOMEM, and why holds
 * "name:line:column: sentence".  name is copied. */
struct yaml_failure {
	char why[560];
};
MUST_CHECK int yaml_tree_parse(const char *name, const char *text, size_t len,
			       struct yaml_tree **ret,
			       struct yaml_failure *ret_why);
/* A tree of one plain scalar, at 0:0: for values that come from elsewhere. */
MUST_CHECK int yaml_tree_scalar(const char *name, const char *text,
				struct yaml_tree **ret);
/* NULL-safe.  Texts are zeroed: they may have been secrets. */
void yaml_tree_free(struct yaml_tree *);
/* NULL for an empty document. */
const struct yaml_node *yaml_tree_root(const struct yaml_tree *);
const char *yaml_tree_name(const struct yaml_tree *);

/* Nothing was written after the key: empty, "~" or "null", unquoted. */
bool yaml_node_is_null(const struct yaml_node *);
/* "a map", "a list", "text": for messages. */
const char *yaml_kind_name(enum yaml_kind);

#endif
