/* base/yaml.c: from libyaml's events to a small tree.
 *
 * The parser is a loop over events with an explicit stack, so nothing that an
 * operator writes can deepen our own.  Every limit is checked before memory
 * is taken for the node that would pass it. */
#include "base/yaml.h"

#include <stdarg.h>
#include <string.h>
#include <yaml.h>

#include "base/err.h"

struct yaml_tree {
	char *name;
	struct yaml_node *root;
	unsigned node_count;
};

/* One open map or list. */
struct yaml_level {
	struct yaml_node *node;
	struct yaml_node **tail; /* where the next child goes */
	char *key;		 /* of a map, read and waiting for its value */
	unsigned key_line, key_column;
};

struct yaml_reader {
	yaml_parser_t parser;
	struct yaml_tree *tree;
	struct yaml_level levels[YAML_DEPTH_MAX];
	unsigned depth;
	unsigned documents;
	struct yaml_failure *why;
};

static int PRINTF_LIKE(5, 6)
	fail_at(struct yaml_reader *r, size_t line, size_t column, int err,
		const char *format, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	snprintf(r->why->why, sizeof(r->why->why), "%.256s:%zu:%zu: %s",
		 r->tree->name, line + 1, column + 1, text);
	return err;
}

#define FAIL(r, event, err, ...)                                               \
	fail_at((r), (event)->start_mark.line, (event)->start_mark.column,     \
		(err), __VA_ARGS__)

static void wipe_free(char *text)
{
	if (!text)
		return;
	explicit_bzero(text, strlen(text));
	free(text);
}

/* The tree is at most YAML_DEPTH_MAX deep, so recursion is bounded. */
static void node_free(struct yaml_node *n)
{
	struct yaml_node *next;

	for (; n; n = next) {
		next = n->next;
		node_free(n->first);
		wipe_free(n->text);
		wipe_free(n->key);
		free(n);
	}
}

void yaml_tree_free(struct yaml_tree *tree)
{
	if (!tree)
		return;
	node_free(tree->root);
	free(tree->name);
	free(tree);
}

const struct yaml_node *yaml_tree_root(const struct yaml_tree *tree)
{
	return tree->root;
}

const char *yaml_tree_name(const struct yaml_tree *tree)
{
	return tree->name;
}

bool yaml_node_is_null(const struct yaml_node *n)
{
	return n->kind == YAML_SCALAR && !n->quoted &&
	       (!n->text[0] || !strcmp(n->text, "~") ||
		!strcmp(n->text, "null"));
}

const char *yaml_kind_name(enum yaml_kind kind)
{
	switch (kind) {
	case YAML_SCALAR:
		return "text";
	case YAML_LIST:
		return "a list";
	case YAML_MAP:
		return "a map";
	}
	return "nothing";
}

static bool map_has(const struct yaml_node *map, const char *key)
{
	for (const struct yaml_node *n = map->first; n; n = n->next)
		if (!strcmp(n->key, key))
			return true;
	return false;
}

/* A new node in its place in the tree. */
static int node_add(struct yaml_reader *r, const yaml_event_t *event,
		    enum yaml_kind kind, struct yaml_node **ret)
{
	struct yaml_level *level = r->depth ? &r->levels[r->depth - 1] : NULL;
	struct yaml_node *n;

	if (r->tree->node_count == YAML_NODES_MAX)
		return FAIL(r, event, -E_LIMIT, "more than %u entries",
			    YAML_NODES_MAX);
	if (level && level->node->count == YAML_ITEMS_MAX)
		return FAIL(r, event, -E_LIMIT,
			    "more than %u entries in one list or map",
			    YAML_ITEMS_MAX);
	n = calloc(1, sizeof(*n));
	if (!n)
		return -ENOMEM;
	n->kind = kind;
	n->line = (unsigned)event->start_mark.line + 1;
	n->column = (unsigned)event->start_mark.column + 1;
	r->tree->node_count++;
	if (!level) {
		r->tree->root = n;
	} else {
		n->key = level->key;
		n->key_line = level->key_line;
		n->key_column = level->key_column;
		level->key = NULL;
		*level->tail = n;
		level->tail = &n->next;
		level->node->count++;
	}
	*ret = n;
	return 0;
}

static int take_key(struct yaml_reader *r, const yaml_event_t *event,
		    const char *text)
{
	struct yaml_level *level = &r->levels[r->depth - 1];

	if (map_has(level->node, text))
		return FAIL(r, event, -E_CORRUPT,
			    "the key \"%.64s\" is here twice", text);
	level->key = strdup(text);
	if (!level->key)
		return -ENOMEM;
	level->key_line = (unsigned)event->start_mark.line + 1;
	level->key_column = (unsigned)event->start_mark.column + 1;
	return 0;
}

static bool expects_key(const struct yaml_reader *r)
{
	const struct yaml_level *level;

	if (!r->depth)
		return false;
	level = &r->levels[r->depth - 1];
	return level->node->kind == YAML_MAP && !level->key;
}

static int take_scalar(struct yaml_reader *r, const yaml_event_t *event)
{
	const char *text = (const char *)event->data.scalar.value;
	struct yaml_node *n;
	int err;

	if (event->data.scalar.tag)
		return FAIL(r, event, -E_CORRUPT, "tags are not taken here");
	if (event->data.scalar.anchor)
		return FAIL(r, event, -E_CORRUPT,
			    "anchors and aliases are not taken here");
	if (strlen(text) != event->data.scalar.length)
		return FAIL(r, event, -E_CORRUPT, "a NUL byte in the text");
	if (expects_key(r))
		return take_key(r, event, text);
	err = node_add(r, event, YAML_SCALAR, &n);
	if (err)
		return err;
	n->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
	n->text = strdup(text);
	if (!n->text) {
		/* A scalar without text must not be seen, not even by free's
		 * neighbours: give it what every reader can bear. */
		n->kind = YAML_LIST;
		return -ENOMEM;
	}
	return 0;
}

static int take_start(struct yaml_reader *r, const yaml_event_t *event,
		      enum yaml_kind kind, bool anchored, bool tagged)
{
	struct yaml_node *n;
	int err;

	if (tagged)
		return FAIL(r, event, -E_CORRUPT, "tags are not taken here");
	if (anchored)
		return FAIL(r, event, -E_CORRUPT,
			    "anchors and aliases are not taken here");
	if (expects_key(r))
		return FAIL(r, event, -E_CORRUPT, "a key must be text, not %s",
			    yaml_kind_name(kind));
	if (r->depth == YAML_DEPTH_MAX)
		return FAIL(r, event, -E_LIMIT, "nested more than %u deep",
			    YAML_DEPTH_MAX);
	err = node_add(r, event, kind, &n);
	if (err)
		return err;
	r->levels[r->depth++] = (struct yaml_level){
		.node = n,
		.tail = &n->first,
	};
	return 0;
}

static int take_event(struct yaml_reader *r, const yaml_event_t *event)
{
	switch (event->type) {
	case YAML_ALIAS_EVENT:
		return FAIL(r, event, -E_CORRUPT,
			    "anchors and aliases are not taken here");
	case YAML_DOCUMENT_START_EVENT:
		if (r->documents++)
			return FAIL(r, event, -E_CORRUPT,
				    "a second document in one file");
		return 0;
	case YAML_SCALAR_EVENT:
		return take_scalar(r, event);
	case YAML_SEQUENCE_START_EVENT:
		return take_start(r, event, YAML_LIST,
				  event->data.sequence_start.anchor,
				  event->data.sequence_start.tag);
	case YAML_MAPPING_START_EVENT:
		return take_start(r, event, YAML_MAP,
				  event->data.mapping_start.anchor,
				  event->data.mapping_start.tag);
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT:
		r->depth--;
		return 0;
	case YAML_NO_EVENT:
	case YAML_STREAM_START_EVENT:
	case YAML_STREAM_END_EVENT:
	case YAML_DOCUMENT_END_EVENT:
		return 0;
	}
	return 0;
}

static int read_events(struct yaml_reader *r)
{
	yaml_event_t event;
	bool more = true;
	int err;

	while (more) {
		if (!yaml_parser_parse(&r->parser, &event)) {
			if (r->parser.error == YAML_MEMORY_ERROR)
				return -ENOMEM;
			return fail_at(r, r->parser.problem_mark.line,
				       r->parser.problem_mark.column,
				       -E_CORRUPT, "this is not YAML: %s",
				       r->parser.problem ? r->parser.problem
							 : "unreadable");
		}
		more = event.type != YAML_STREAM_END_EVENT;
		err = take_event(r, &event);
		yaml_event_delete(&event);
		if (err)
			return err;
	}
	return 0;
}

static int tree_create(const char *name, struct yaml_tree **ret)
{
	struct yaml_tree *tree = calloc(1, sizeof(*tree));

	if (!tree)
		return -ENOMEM;
	tree->name = strdup(name);
	if (!tree->name) {
		free(tree);
		return -ENOMEM;
	}
	*ret = tree;
	return 0;
}

int yaml_tree_parse(const char *name, const char *text, size_t len,
		    struct yaml_tree **ret, struct yaml_failure *ret_why)
{
	struct yaml_reader r = {.why = ret_why};
	int err;

	ret_why->why[0] = '\0';
	err = tree_create(name, &r.tree);
	if (err)
		goto out;
	if (len > YAML_BYTES_MAX) {
		err = fail_at(&r, 0, 0, -E_LIMIT, "larger than %u bytes",
			      YAML_BYTES_MAX);
		goto out;
	}
	if (!yaml_parser_initialize(&r.parser)) {
		err = -ENOMEM;
		goto out;
	}
	yaml_parser_set_input_string(&r.parser, (const unsigned char *)text,
				     len);
	yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
	err = read_events(&r);
	for (unsigned i = 0; i < r.depth; i++)
		wipe_free(r.levels[i].key);
	yaml_parser_delete(&r.parser);
out:
	if (err) {
		if (!ret_why->why[0])
			snprintf(ret_why->why, sizeof(ret_why->why),
				 "%.256s: %s", name, err_str(err));
		yaml_tree_free(r.tree);
		return err;
	}
	*ret = r.tree;
	return 0;
}

int yaml_tree_scalar(const char *name, const char *text, struct yaml_tree **ret)
{
	struct yaml_tree *tree;
	int err = tree_create(name, &tree);

	if (err)
		return err;
	tree->root = calloc(1, sizeof(*tree->root));
	if (tree->root)
		tree->root->text = strdup(text);
	if (!tree->root || !tree->root->text) {
		yaml_tree_free(tree);
		return -ENOMEM;
	}
	tree->root->kind = YAML_SCALAR;
	*ret = tree;
	return 0;
}
