/* base/config.c: finding each key's last word among the sources.
 *
 * Every source becomes a YAML tree (a variable or a --set is a tree of one
 * scalar).  The trees are walked in order; for each key of the table the node
 * that speaks last is remembered, and only those are bound to the struct.  So
 * a wrong value that a later source replaces is not an error, an unknown key
 * anywhere is. */
#include "base/config.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config_value.h"

#define PATH_MAX_BYTES 512u
#define FRAGMENTS_MAX 256

struct config {
	const struct config_table *table;
	void *values;
	char **origins; /* one per key; NULL: default */
};

/* The last word on one key. */
struct entry {
	const struct yaml_tree *tree;
	const struct yaml_node *node;
	bool is_file; /* KEY_file */
};

struct merge {
	const struct config_table *table;
	struct config_errors *errors;
	struct entry *entries; /* one per key */
	struct yaml_tree **trees;
	size_t tree_count;
};

/* ---- the walk ---- */

static bool under(const char *path, const char *section, size_t len)
{
	return !strncmp(path, section, len) && path[len] == '.';
}

static const struct config_key *find_key(const struct config_table *table,
					 const char *path, bool *ret_is_file)
{
	size_t len = strlen(path);

	for (size_t i = 0; i < table->key_count; i++) {
		const struct config_key *k = &table->keys[i];
		size_t key_len = strlen(k->path);

		*ret_is_file = false;
		if (!strcmp(k->path, path))
			return k;
		*ret_is_file = true;
		if ((k->flags & CONFIG_SECRET) && len == key_len + 5 &&
		    !memcmp(k->path, path, key_len) &&
		    !strcmp(path + key_len, "_file"))
			return k;
	}
	return NULL;
}

static bool is_section(const struct config_table *table, const char *path)
{
	for (size_t i = 0; i < table->key_count; i++)
		if (under(table->keys[i].path, path, strlen(path)))
			return true;
	return false;
}

/* The known names at this level that look like `word`. */
static struct config_guess guess(const struct config_table *table,
				 const char *section, const char *word)
{
	size_t skip = section[0] ? strlen(section) + 1 : 0;
	struct config_guess g;

	config_guess_init(&g, word);
	for (size_t i = 0; i < table->key_count; i++) {
		const char *path = table->keys[i].path;

		if (skip && !under(path, section, skip - 1))
			continue;
		config_guess_offer(&g, path + skip, strcspn(path + skip, "."));
	}
	return g;
}

static void unknown(struct merge *m, const struct yaml_tree *tree,
		    const struct yaml_node *node, const char *section)
{
	struct config_guess g = guess(m->table, section, node->key);
	char where[CONFIG_WHERE_BYTES];
	struct yaml_node at = *node;

	at.line = node->key_line;
	at.column = node->key_column;
	config_value_where(where, yaml_tree_name(tree), &at);
	if (g.best)
		config_errors_add(m->errors, where,
				  "unknown key \"%.64s\"%s%s (did you mean "
				  "\"%.*s\"?)",
				  node->key, section[0] ? " in " : "", section,
				  (int)g.best_len, g.best);
	else
		config_errors_add(m->errors, where, "unknown key \"%.64s\"%s%s",
				  node->key, section[0] ? " in " : "", section);
}

static void take(struct merge *m, const struct config_key *key,
		 const struct yaml_tree *tree, const struct yaml_node *node,
		 bool is_file)
{
	struct entry *e = &m->entries[key - m->table->keys];

	if (e->tree == tree) {
		char where[CONFIG_WHERE_BYTES];

		config_errors_add(
			m->errors,
			config_value_where(where, yaml_tree_name(tree), node),
			"%s is given both as a value and as a file", key->path);
		return;
	}
	*e = (struct entry){tree, node, is_file};
}

/* Depth is bounded by the table's: a section that it does not have is an
 * unknown key. */
static void merge_map(struct merge *m, const struct yaml_tree *tree,
		      const struct yaml_node *map, const char *section)
{
	for (const struct yaml_node *n = map->first; n; n = n->next) {
		char path[PATH_MAX_BYTES], where[CONFIG_WHERE_BYTES];
		const struct config_key *key;
		bool is_file;
		int len = snprintf(path, sizeof(path), "%s%s%s", section,
				   section[0] ? "." : "", n->key);

		if (len >= (int)sizeof(path) || strchr(n->key, '.')) {
			unknown(m, tree, n, section);
			continue;
		}
		key = find_key(m->table, path, &is_file);
		if (key)
			take(m, key, tree, n, is_file);
		else if (!is_section(m->table, path))
			unknown(m, tree, n, section);
		else if (n->kind == YAML_MAP)
			merge_map(m, tree, n, path);
		else if (!yaml_node_is_null(n))
			config_errors_add(
				m->errors,
				config_value_where(where, yaml_tree_name(tree),
						   n),
				"%s: must be a map, not %s", path,
				yaml_kind_name(n->kind));
	}
}

static int keep_tree(struct merge *m, struct yaml_tree *tree)
{
	struct yaml_tree **trees =
		realloc(m->trees, (m->tree_count + 1) * sizeof(*trees));

	if (!trees) {
		yaml_tree_free(tree);
		return -ENOMEM;
	}
	m->trees = trees;
	trees[m->tree_count++] = tree;
	return 0;
}

/* ---- files ---- */

static int read_whole(const char *path, char **ret, size_t *ret_len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), err = 0;
	size_t len = 0;
	char *buf;

	if (fd < 0)
		return -errno;
	buf = malloc(YAML_BYTES_MAX + 1);
	if (!buf)
		err = -ENOMEM;
	while (!err && len <= YAML_BYTES_MAX) {
		ssize_t n = read(fd, buf + len, YAML_BYTES_MAX + 1 - len);

		if (n < 0)
			err = -errno;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	close(fd);
	if (err) {
		free(buf);
		return err;
	}
	*ret = buf;
	*ret_len = len;
	return 0;
}

static int merge_file(struct merge *m, const char *path)
{
	struct yaml_failure why;
	struct yaml_tree *tree;
	const struct yaml_node *root;
	char *text = NULL;
	size_t len = 0;
	int err = read_whole(path, &text, &len);

	if (err == -ENOMEM)
		return err;
	if (err) {
		config_errors_add(m->errors, path, "cannot be read: %s",
				  err_str(err));
		return 0;
	}
	err = yaml_tree_parse(path, text, len, &tree, &why);
	explicit_bzero(text, len);
	free(text);
	if (err == -ENOMEM)
		return err;
	if (err) {
		config_errors_add(m->errors, "", "%s", why.why);
		return 0;
	}
	err = keep_tree(m, tree);
	if (err)
		return err;
	root = yaml_tree_root(tree);
	if (!root || yaml_node_is_null(root))
		return 0;
	if (root->kind != YAML_MAP) {
		char where[CONFIG_WHERE_BYTES];

		config_errors_add(m->errors,
				  config_value_where(where, path, root),
				  "a configuration is a map, not %s",
				  yaml_kind_name(root->kind));
		return 0;
	}
	merge_map(m, tree, root, "");
	return 0;
}

static int is_fragment(const struct dirent *d)
{
	size_t len = strlen(d->d_name);

	return d->d_name[0] != '.' && len > 5 &&
	       !strcmp(d->d_name + len - 5, ".yaml");
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* "/etc/holdfast/conf.d" for "/etc/holdfast/holdfast.yaml". */
static char *fragment_dir(const char *file)
{
	const char *slash = strrchr(file, '/');
	char *dir;

	if (asprintf(&dir, "%.*sconf.d", slash ? (int)(slash - file) + 1 : 0,
		     file) < 0)
		return NULL;
	return dir;
}

/* Calls each() for the fragments in byte order; -ENOENT is no fragments. */
static int each_fragment(const char *file,
			 int (*each)(void *ctx, const char *path), void *ctx)
{
	char *dir = fragment_dir(file);
	struct dirent **names = NULL;
	int err = 0, count;

	if (!dir)
		return -ENOMEM;
	count = scandir(dir, &names, is_fragment, by_bytes);
	if (count < 0)
		err = errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	for (int i = 0; i < count; i++) {
		char *path;

		if (!err && i == FRAGMENTS_MAX)
			err = -E_LIMIT;
		if (!err && asprintf(&path, "%s/%s", dir, names[i]->d_name) < 0)
			err = -ENOMEM;
		else if (!err) {
			err = each(ctx, path);
			free(path);
		}
		free(names[i]);
	}
	free(names);
	free(dir);
	return err;
}

static int merge_fragment(void *ctx, const char *path)
{
	return merge_file(ctx, path);
}

static int merge_files(struct merge *m, const char *file)
{
	int err = merge_file(m, file);

	if (!err)
		err = each_fragment(file, merge_fragment, m);
	if (err && err != -ENOMEM) {
		config_errors_add(m->errors, file,
				  "its conf.d cannot be read: %s",
				  err_str(err));
		err = 0;
	}
	return err;
}

static void mix(uint64_t *hash, uint64_t v)
{
	*hash = (*hash ^ v) * 0x100000001b3ull;
}

static int mix_file(void *ctx, const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return 0;
	mix(ctx, (uint64_t)st.st_ino);
	mix(ctx, (uint64_t)st.st_size);
	mix(ctx, (uint64_t)st.st_mtim.tv_sec);
	mix(ctx, (uint64_t)st.st_mtim.tv_nsec);
	return 0;
}

uint64_t config_fingerprint(const char *file)
{
	uint64_t hash = 0xcbf29ce484222325ull;

	if (access(file, F_OK))
		return 0;
	mix_file(&hash, file);
	if (each_fragment(file, mix_file, &hash))
		mix(&hash, 1);
	return hash;
}

/* ---- environment and arguments ---- */

/* A value that came as text: YAML when the key takes a list and the text
 * looks like one, else the text itself, whatever characters it has. */
static int merge_text(struct merge *m, const struct config_key *key,
		      bool is_file, const char *name, const char *text)
{
	struct yaml_failure why;
	struct yaml_tree *tree;
	int err;

	if (key->type == CONFIG_MAPS ||
	    (key->type == CONFIG_LIST && text[0] == '['))
		err = yaml_tree_parse(name, text, strlen(text), &tree, &why);
	else
		err = yaml_tree_scalar(name, text, &tree);
	if (err == -ENOMEM)
		return err;
	if (err) {
		config_errors_add(m->errors, "", "%s", why.why);
		return 0;
	}
	err = keep_tree(m, tree);
	if (!err && yaml_tree_root(tree))
		take(m, key, tree, yaml_tree_root(tree), is_file);
	return err;
}

/* Kubernetes puts NAME_SERVICE_HOST, NAME_PORT and NAME_PORT_5672_TCP_ADDR
 * into every pod that shares a namespace with a service called NAME, and ours
 * is likely to be called holdfast. */
static bool is_service_link(const char *rest)
{
	const char *port = strstr(rest, "PORT");

	if (strstr(rest, "SERVICE_HOST") || strstr(rest, "SERVICE_PORT"))
		return true;
	if (!port || (port != rest && port[-1] != '_'))
		return false;
	return !port[4] || (port[4] == '_' && isdigit((unsigned char)port[5]));
}

static bool path_from_env(const char *rest, size_t len,
			  char path[PATH_MAX_BYTES])
{
	size_t n = 0;

	if (len >= PATH_MAX_BYTES)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (rest[i] == '_' && i + 1 < len && rest[i + 1] == '_') {
			path[n++] = '.';
			i++;
		} else if (isupper((unsigned char)rest[i]) ||
			   isdigit((unsigned char)rest[i]) || rest[i] == '_') {
			path[n++] = (char)tolower((unsigned char)rest[i]);
		} else {
			return false;
		}
	}
	path[n] = '\0';
	return true;
}

static bool is_other(const char *const *others, const char *name, size_t len)
{
	for (; others && *others; others++)
		if (strlen(*others) == len && !memcmp(*others, name, len))
			return true;
	return false;
}

/* Guesses over whole paths: "journal.segment_sise". */
static struct config_guess guess_path(const struct config_table *table,
				      const char *path)
{
	struct config_guess g;

	config_guess_init(&g, path);
	for (size_t i = 0; i < table->key_count; i++)
		config_guess_offer(&g, table->keys[i].path,
				   strlen(table->keys[i].path));
	return g;
}

static void unknown_env(struct merge *m, const char *name, const char *prefix,
			const char *path)
{
	struct config_guess g = guess_path(m->table, path);
	char likely[PATH_MAX_BYTES] = "";
	size_t n = 0;

	/* A name without a section may be someone else's, unless it is nearly
	 * one of ours. */
	if (!g.best && !strchr(path, '.'))
		return;
	for (size_t i = 0; g.best && i < g.best_len && n + 3 < sizeof(likely);
	     i++) {
		if (g.best[i] == '.') {
			likely[n++] = '_';
			likely[n++] = '_';
		} else {
			likely[n++] = (char)toupper((unsigned char)g.best[i]);
		}
	}
	if (g.best)
		config_errors_add(m->errors, name,
				  "unknown setting in the environment (did "
				  "you mean %s%s?)",
				  prefix, likely);
	else
		config_errors_add(m->errors, name,
				  "unknown setting in the environment");
}

static int merge_env(struct merge *m, const struct config_source *source)
{
	size_t prefix_len = strlen(source->env_prefix);
	int err = 0;

	for (char *const *e = source->env; *e && !err; e++) {
		char path[PATH_MAX_BYTES], name[PATH_MAX_BYTES];
		const char *equals = strchr(*e, '=');
		const struct config_key *key;
		bool is_file;

		if (!equals || strncmp(*e, source->env_prefix, prefix_len) ||
		    (size_t)(equals - *e) < prefix_len ||
		    is_other(source->env_others, *e, (size_t)(equals - *e)) ||
		    !path_from_env(*e + prefix_len,
				   (size_t)(equals - *e) - prefix_len, path))
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(equals - *e), *e);
		key = find_key(m->table, path, &is_file);
		if (key)
			err = merge_text(m, key, is_file, name, equals + 1);
		else if (!is_service_link(name + prefix_len))
			unknown_env(m, name, source->env_prefix, path);
	}
	return err;
}

static int merge_set(struct merge *m, const char *set)
{
	char name[PATH_MAX_BYTES], path[PATH_MAX_BYTES];
	const char *equals = strchr(set, '=');
	const struct config_key *key;
	struct config_guess g;
	bool is_file;

	if (!equals || equals == set ||
	    (size_t)(equals - set) >= sizeof(path) - 8) {
		config_errors_add(m->errors, "--set",
				  "\"%.80s\" is not section.key=value", set);
		return 0;
	}
	snprintf(path, sizeof(path), "%.*s", (int)(equals - set), set);
	snprintf(name, sizeof(name), "--set %.480s", path);
	key = find_key(m->table, path, &is_file);
	if (key)
		return merge_text(m, key, is_file, name, equals + 1);
	g = guess_path(m->table, path);
	if (g.best)
		config_errors_add(m->errors, name,
				  "unknown key (did you mean \"%s\"?)", g.best);
	else
		config_errors_add(m->errors, name, "unknown key");
	return 0;
}

static int merge_all(struct merge *m, const struct config_source *source)
{
	int err = source->file ? merge_files(m, source->file) : 0;

	if (!err && source->env_prefix && source->env)
		err = merge_env(m, source);
	for (size_t i = 0; !err && i < source->set_count; i++)
		err = merge_set(m, source->sets[i]);
	return err;
}

/* ---- the result ---- */

static int config_create(const struct config_table *table, struct config **ret)
{
	struct config *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->table = table;
	c->values = calloc(1, table->bytes);
	c->origins = calloc(table->key_count, sizeof(*c->origins));
	if (!c->values || !c->origins) {
		config_free(c);
		return -ENOMEM;
	}
	*ret = c;
	return 0;
}

void config_free(struct config *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->table->key_count; i++) {
		if (c->values)
			config_value_clear(&c->table->keys[i], c->values);
		if (c->origins)
			free(c->origins[i]);
	}
	free(c->origins);
	free(c->values);
	free(c);
}

static int bind_all(struct config *c, const struct merge *m)
{
	for (size_t i = 0; i < c->table->key_count; i++) {
		const struct entry *e = &m->entries[i];
		const char *name = e->tree ? yaml_tree_name(e->tree) : "";
		int err = config_value_bind(&c->table->keys[i], c->values, name,
					    e->node, e->is_file, m->errors);

		if (err)
			return err;
		if (e->node && !yaml_node_is_null(e->node)) {
			char where[CONFIG_WHERE_BYTES];

			c->origins[i] = strdup(
				config_value_where(where, name, e->node));
			if (!c->origins[i])
				return -ENOMEM;
		}
	}
	return 0;
}

int config_load(const struct config_table *table,
		const struct config_source *source, struct config **ret,
		struct config_errors *ret_errors)
{
	struct merge m = {.table = table, .errors = ret_errors};
	struct config *c;
	int err;

	ret_errors->text[0] = '\0';
	ret_errors->len = 0;
	ret_errors->count = 0;
	err = config_create(table, &c);
	if (err)
		return err;
	m.entries = calloc(table->key_count, sizeof(*m.entries));
	err = m.entries ? merge_all(&m, source) : -ENOMEM;
	if (!err)
		err = bind_all(c, &m);
	if (!err && ret_errors->count)
		err = -E_CONFIG;
	for (size_t i = 0; i < m.tree_count; i++)
		yaml_tree_free(m.trees[i]);
	free(m.trees);
	free(m.entries);
	if (err) {
		config_free(c);
		return err;
	}
	*ret = c;
	return 0;
}

const void *config_values(const struct config *c)
{
	return c->values;
}

const char *config_origin(const struct config *c, const char *path)
{
	for (size_t i = 0; i < c->table->key_count; i++)
		if (!strcmp(c->table->keys[i].path, path))
			return c->origins[i] ? c->origins[i] : "default";
	return "default";
}

void config_compare(const struct config *was, const struct config *is,
		    void (*each)(void *ctx, const struct config_key *),
		    void *ctx)
{
	ASSERT(was->table == is->table);
	for (size_t i = 0; i < was->table->key_count; i++)
		if (!config_value_equal(&was->table->keys[i], was->values,
					is->values))
			each(ctx, &was->table->keys[i]);
}

void config_print(const struct config *c, FILE *out)
{
	const char *open = "";
	size_t open_len = 0;

	for (size_t i = 0; i < c->table->key_count; i++) {
		const struct config_key *k = &c->table->keys[i];
		const char *dot = strchr(k->path, '.');
		size_t len = dot ? (size_t)(dot - k->path) : 0;
		const char *origin = c->origins[i] ? c->origins[i] : "default";

		if (len != open_len || strncmp(open, k->path, len)) {
			if (len)
				fprintf(out, "%.*s:\n", (int)len, k->path);
			open = k->path;
			open_len = len;
		}
		if (k->type == CONFIG_MAPS)
			fprintf(out, "%s# %s: %s\n", dot ? "  " : "", k->path,
				origin);
		fprintf(out, "%s%s:", dot ? "  " : "", dot ? dot + 1 : k->path);
		config_value_print(k, c->values, dot ? 4 : 2, out);
		if (k->type != CONFIG_MAPS)
			fprintf(out, "  # %s", origin);
		fputc('\n', out);
	}
}
