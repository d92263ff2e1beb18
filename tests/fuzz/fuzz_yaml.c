/* tests/fuzz/fuzz_yaml.c: any bytes as a configuration file.
 *
 * The tree's promises are walked, and then the settings table of a small
 * program is bound to the same bytes through its environment. */
#include <string.h>

#include "base/config.h"
#include "base/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct item {
	char *name, *secret;
	uint64_t size;
};

struct target {
	struct config_list list;
	struct config_maps maps;
};

static const struct config_key item_keys[] = {
	{"name", CONFIG_STRING, CONFIG_REQUIRED | CONFIG_NAMES_ITEM,
	 offsetof(struct item, name), .help = ""},
	{"secret", CONFIG_STRING, CONFIG_SECRET, offsetof(struct item, secret),
	 .help = ""},
	{"size", CONFIG_SIZE, 0, offsetof(struct item, size),
	 .fallback = "1KiB", .most = 1u << 30, .help = ""},
};
static const struct config_table item_table = {
	item_keys, ARRAY_COUNT(item_keys), sizeof(struct item)};

static const struct config_key keys[] = {
	{"list", CONFIG_LIST, 0, offsetof(struct target, list), .help = ""},
	{"maps", CONFIG_MAPS, 0, offsetof(struct target, maps),
	 .each = &item_table, .help = ""},
};
static const struct config_table table = {keys, ARRAY_COUNT(keys),
					  sizeof(struct target)};

static unsigned walk(const struct yaml_node *n, unsigned depth)
{
	unsigned count = 0;

	if (!n)
		return 0;
	ASSERT(depth <= YAML_DEPTH_MAX);
	ASSERT((n->kind == YAML_SCALAR) == (n->text != NULL));
	for (const struct yaml_node *c = n->first; c; c = c->next) {
		ASSERT((n->kind == YAML_MAP) == (c->key != NULL));
		count++;
		walk(c, depth + 1);
	}
	ASSERT(count == n->count);
	return count;
}

static void bind(const char *variable)
{
	static struct config_errors errors;
	char *copy = strdup(variable);
	char *const env[] = {copy, NULL};
	struct config_source source = {.env_prefix = "F_", .env = env};
	struct config *c;
	FILE *sink;

	if (!copy)
		return;
	if (!config_load(&table, &source, &c, &errors)) {
		sink = fopen("/dev/null", "w");
		if (sink) {
			config_print(c, sink);
			fclose(sink);
		}
		config_free(c);
	} else {
		ASSERT(errors.len > 0);
	}
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct yaml_failure why;
	struct yaml_tree *tree;
	char *text;

	if (!yaml_tree_parse("f", (const char *)data, size, &tree, &why)) {
		walk(yaml_tree_root(tree), 0);
		yaml_tree_free(tree);
	} else {
		ASSERT(why.why[0]);
	}
	/* A secret's file would be opened: a fuzzer must not pick files. */
	if (memmem(data, size, "_file", 5))
		return 0;
	text = malloc(size + 8);
	if (!text)
		return 0;
	memcpy(text, "F_LIST=", 7);
	memcpy(text + 7, data, size);
	text[size + 7] = '\0';
	bind(text);
	memcpy(text, "F_MAPS=", 7);
	bind(text);
	free(text);
	return 0;
}
