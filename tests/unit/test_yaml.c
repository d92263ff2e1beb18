/* tests/unit/test_yaml.c: base/yaml.h. */
#include "base/yaml.h"
#include "base/err.h"
#include "tests/unit/test.h"

static struct yaml_failure why;

static int parse_len(const char *text, size_t len, struct yaml_tree **tree)
{
	return yaml_tree_parse("t.yaml", text, len, tree, &why);
}

static int parse(const char *text, struct yaml_tree **tree)
{
	return parse_len(text, strlen(text), tree);
}

static void refused(const char *text, int err, const char *start)
{
	struct yaml_tree *tree = NULL;

	assert_int_equal(parse(text, &tree), err);
	assert_null(tree);
	if (strncmp(why.why, start, strlen(start)))
		fail_msg("\"%s\" does not begin with \"%s\"", why.why, start);
}

static const struct yaml_node *child(const struct yaml_node *n, const char *key)
{
	for (n = n->first; n; n = n->next)
		if (!strcmp(n->key, key))
			return n;
	fail_msg("no key %s", key);
	return NULL;
}

TEST("maps, lists and scalars arrive with their places")
{
	struct yaml_tree *tree;
	const struct yaml_node *root, *n;

	assert_int_equal(parse("a: 1\nb:\n  - x\n  - 'y'\nc: {d: e}\n", &tree),
			 0);
	root = yaml_tree_root(tree);
	assert_int_equal(root->kind, YAML_MAP);
	assert_int_equal(root->count, 3);
	n = child(root, "a");
	assert_string_equal(n->text, "1");
	assert_int_equal(n->line, 1);
	assert_int_equal(n->column, 4);
	assert_int_equal(n->key_column, 1);
	n = child(root, "b");
	assert_int_equal(n->kind, YAML_LIST);
	assert_int_equal(n->count, 2);
	assert_string_equal(n->first->text, "x");
	assert_false(n->first->quoted);
	assert_true(n->first->next->quoted);
	assert_int_equal(n->first->next->line, 4);
	assert_int_equal(n->first->next->column, 5);
	assert_string_equal(child(child(root, "c"), "d")->text, "e");
	yaml_tree_free(tree);
}

TEST("an empty document has no root, an empty value is null")
{
	struct yaml_tree *tree;

	assert_int_equal(parse("", &tree), 0);
	assert_null(yaml_tree_root(tree));
	yaml_tree_free(tree);
	assert_int_equal(parse("# nothing\n", &tree), 0);
	assert_null(yaml_tree_root(tree));
	yaml_tree_free(tree);
	assert_int_equal(parse("a:\nb: ~\nc: null\nd: ''\ne: nul\n", &tree), 0);
	assert_true(yaml_node_is_null(child(yaml_tree_root(tree), "a")));
	assert_true(yaml_node_is_null(child(yaml_tree_root(tree), "b")));
	assert_true(yaml_node_is_null(child(yaml_tree_root(tree), "c")));
	assert_false(yaml_node_is_null(child(yaml_tree_root(tree), "d")));
	assert_false(yaml_node_is_null(child(yaml_tree_root(tree), "e")));
	yaml_tree_free(tree);
}

TEST("YAML 1.1's words and octal numbers stay the text that was written")
{
	struct yaml_tree *tree;

	assert_int_equal(parse("[no, 010, 1:30, 0x10, .inf]", &tree), 0);
	assert_string_equal(yaml_tree_root(tree)->first->text, "no");
	assert_string_equal(yaml_tree_root(tree)->first->next->text, "010");
	assert_string_equal(yaml_tree_root(tree)->first->next->next->text,
			    "1:30");
	yaml_tree_free(tree);
}

TEST("a duplicate key is refused at its second place")
{
	refused("a: 1\nb: 2\na: 3\n", -E_CORRUPT,
		"t.yaml:3:1: the key \"a\" is here twice");
}

TEST("anchors, aliases, tags and more documents are refused by name")
{
	refused("a: &x 1\nb: *x\n", -E_CORRUPT,
		"t.yaml:1:4: anchors and aliases");
	refused("a: *x\n", -E_CORRUPT, "t.yaml:1:4: anchors and aliases");
	refused("a: !!str 1\n", -E_CORRUPT, "t.yaml:1:4: tags");
	refused("a: !!map {b: c}\n", -E_CORRUPT, "t.yaml:1:4: tags");
	refused("a: 1\n---\nb: 2\n", -E_CORRUPT, "t.yaml:2:1: a second");
	refused("[a]: 1\n", -E_CORRUPT, "t.yaml:1:1: a key must be text");
	refused("? {a: b}\n: 1\n", -E_CORRUPT, "t.yaml:1:3: a key must be");
}

TEST("what is not YAML is refused with line and column")
{
	refused("a: [1, 2\nb: 3\n", -E_CORRUPT, "t.yaml:2:2: this is not YAML");
	refused("a: 'x\n", -E_CORRUPT, "t.yaml:2:1: this is not YAML");
	refused("\ta: 1\n", -E_CORRUPT, "t.yaml:1:1: this is not YAML");
	refused("a: \xff\xfe\n", -E_CORRUPT, "t.yaml:1:1: this is not YAML");
	refused("a: b: c\n", -E_CORRUPT, "t.yaml:1:5: this is not YAML");
}

TEST("a NUL in the text or in an escape is refused")
{
	struct yaml_tree *tree;

	assert_int_equal(parse_len("a: b\0c\n", 7, &tree), -E_CORRUPT);
	refused("a: \"b\\0c\"\n", -E_CORRUPT, "t.yaml:1:4: a NUL");
}

TEST("nesting, entries and bytes are bounded")
{
	char deep[64], *wide;
	struct yaml_tree *tree;
	size_t len = 0;

	memset(deep, '[', YAML_DEPTH_MAX);
	memset(deep + YAML_DEPTH_MAX, ']', YAML_DEPTH_MAX);
	assert_int_equal(parse_len(deep, 2 * YAML_DEPTH_MAX, &tree), 0);
	yaml_tree_free(tree);
	memset(deep, '[', YAML_DEPTH_MAX + 1);
	assert_int_equal(parse_len(deep, YAML_DEPTH_MAX + 1, &tree), -E_LIMIT);
	wide = malloc(YAML_BYTES_MAX + 1);
	assert_non_null(wide);
	for (unsigned i = 0; i < YAML_ITEMS_MAX; i++)
		len += (size_t)sprintf(wide + len, "- a\n");
	assert_int_equal(parse_len(wide, len, &tree), 0);
	yaml_tree_free(tree);
	len += (size_t)sprintf(wide + len, "- a\n");
	assert_int_equal(parse_len(wide, len, &tree), -E_LIMIT);
	assert_non_null(strstr(why.why, "t.yaml:4097:3: more than 4096"));
	memset(wide, ' ', YAML_BYTES_MAX + 1);
	assert_int_equal(parse_len(wide, YAML_BYTES_MAX + 1, &tree), -E_LIMIT);
	free(wide);
}

TEST("every prefix and every changed byte of a document is answered")
{
	static const char text[] =
		"data_dir: /x\nlisten: [a, 'b', \"c\\n\"]\nusers:\n"
		"  - {name: a, password: b}\n  - name: |\n      block\n";
	char copy[sizeof(text)];
	struct yaml_tree *tree;

	for (size_t i = 0; i < sizeof(text); i++) {
		if (!parse_len(text, i, &tree))
			yaml_tree_free(tree);
		for (unsigned c = 0; c < 256; c += 3) {
			memcpy(copy, text, sizeof(text));
			copy[i] = (char)c;
			if (!parse_len(copy, sizeof(text) - 1, &tree))
				yaml_tree_free(tree);
			else
				assert_true(why.why[0]);
		}
	}
}

TEST_MAIN()
