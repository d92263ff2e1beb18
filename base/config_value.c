/* base/config_value.c: the types of settings, each with its four verbs: bind,
 * clear, compare, print. */
#include "base/config_value.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#define SECRET_FILE_BYTES_MAX 4096u

struct unit {
	const char *name;
	uint64_t factor;
};

/* From large to small: printing takes the first that divides. */
static const struct unit size_units[] = {
	{"TiB", 1ull << 40},
	{"GiB", 1ull << 30},
	{"MiB", 1ull << 20},
	{"KiB", 1ull << 10},
	{"B", 1},
	{"Ti", 1ull << 40},
	{"Gi", 1ull << 30},
	{"Mi", 1ull << 20},
	{"Ki", 1ull << 10},
	{"TB", 1000000000000ull},
	{"GB", 1000000000ull},
	{"MB", 1000000ull},
	{"kB", 1000ull},
	{NULL, 0},
};

static const struct unit duration_units[] = {
	{"d", 86400000000000ull},
	{"h", 3600000000000ull},
	{"m", 60000000000ull},
	{"s", 1000000000ull},
	{"ms", 1000000ull},
	{"us", 1000ull},
	{"ns", 1ull},
	{NULL, 0},
};

/* Everything a conversion needs to complain well. */
struct binding {
	const struct config_key *key;
	const char *name;
	const struct yaml_node *node;
	struct config_errors *errors;
};

void config_errors_add(struct config_errors *e, const char *where,
		       const char *format, ...)
{
	va_list ap;
	int n;

	if (e->count++ >= CONFIG_ERRORS_MAX)
		return;
	n = snprintf(e->text + e->len, sizeof(e->text) - e->len, "%s%s%s",
		     e->len ? "\n" : "", where, where[0] ? ": " : "");
	if (n > 0)
		e->len += base_min((uint64_t)n, sizeof(e->text) - 1 - e->len);
	va_start(ap, format);
	n = vsnprintf(e->text + e->len, sizeof(e->text) - e->len, format, ap);
	va_end(ap);
	if (n > 0)
		e->len += base_min((uint64_t)n, sizeof(e->text) - 1 - e->len);
}

const char *config_value_where(char buf[CONFIG_WHERE_BYTES], const char *name,
			       const struct yaml_node *node)
{
	if (node && node->line)
		snprintf(buf, CONFIG_WHERE_BYTES, "%.256s:%u:%u", name,
			 node->line, node->column);
	else
		snprintf(buf, CONFIG_WHERE_BYTES, "%.256s", name);
	return buf;
}

static void PRINTF_LIKE(2, 3)
	complain(const struct binding *b, const char *format, ...)
{
	char where[CONFIG_WHERE_BYTES], text[512];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	config_errors_add(b->errors,
			  config_value_where(where, b->name, b->node), "%s: %s",
			  b->key->path, text);
}

/* ---- numbers ---- */

static const char *unit_list(enum config_type type)
{
	return type == CONFIG_SIZE ? "B, KiB, MiB, GiB, TiB, kB, MB, GB or TB"
				   : "ns, us, ms, s, m, h or d";
}

static bool parse_digits(const char **p, uint64_t *ret)
{
	const char *s = *p;
	uint64_t v = 0;

	if (!isdigit((unsigned char)*s))
		return false;
	for (; isdigit((unsigned char)*s); s++)
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
			return false;
	*p = s;
	*ret = v;
	return true;
}

static bool within(const struct binding *b, uint64_t v)
{
	char least[48], most[48];
	const struct config_key *k = b->key;

	if (!k->most || (v >= k->least && v <= k->most))
		return true;
	for (int i = 0; i < 2; i++) {
		char *out = i ? most : least;
		uint64_t n = i ? k->most : k->least;
		const struct unit *u =
			k->type == CONFIG_SIZE ? size_units : duration_units;

		if (k->type == CONFIG_INT || !n) {
			snprintf(out, sizeof(least), "%" PRIu64, n);
			continue;
		}
		while (n % u->factor)
			u++;
		snprintf(out, sizeof(least), "%" PRIu64 "%s", n / u->factor,
			 u->name);
	}
	complain(b, "\"%.40s\" is not between %s and %s", b->node->text, least,
		 most);
	return false;
}

static void bind_number(const struct binding *b, uint64_t *ret)
{
	enum config_type type = b->key->type;
	const char *p = b->node->text;
	const struct unit *u;
	uint64_t v;

	if (p[0] == '0' && isdigit((unsigned char)p[1])) {
		complain(b, "\"%.40s\": write numbers without leading zeros",
			 p);
		return;
	}
	if (!parse_digits(&p, &v)) {
		complain(b, "\"%.40s\" is not a number", b->node->text);
		return;
	}
	if (type == CONFIG_INT) {
		if (*p) {
			complain(b, "\"%.40s\" is not a number", b->node->text);
			return;
		}
	} else if (*p) {
		while (*p == ' ')
			p++;
		for (u = type == CONFIG_SIZE ? size_units : duration_units;
		     u->name && strcmp(u->name, p);)
			u++;
		if (!u->name || __builtin_mul_overflow(v, u->factor, &v)) {
			complain(b, "\"%.40s\": the unit must be %s",
				 b->node->text, unit_list(type));
			return;
		}
	} else if (type == CONFIG_DURATION && v) {
		complain(b,
			 "\"%.40s\" has no unit: say \"%.40ss\" for "
			 "seconds, or use %s",
			 b->node->text, b->node->text, unit_list(type));
		return;
	}
	if (within(b, v))
		*ret = v;
}

static void print_number(enum config_type type, uint64_t v, FILE *out)
{
	const struct unit *u =
		type == CONFIG_SIZE ? size_units : duration_units;

	if (type == CONFIG_INT || !v) {
		fprintf(out, "%" PRIu64, v);
		return;
	}
	while (v % u->factor)
		u++;
	fprintf(out, "%" PRIu64 "%s", v / u->factor, u->name);
}

/* ---- words ---- */

static void bind_bool(const struct binding *b, bool *ret)
{
	static const char *const yes[] = {"true", "yes", "on"};
	static const char *const no[] = {"false", "no", "off"};

	for (size_t i = 0; i < ARRAY_COUNT(yes); i++) {
		if (!strcasecmp(b->node->text, yes[i])) {
			*ret = true;
			return;
		}
		if (!strcasecmp(b->node->text, no[i])) {
			*ret = false;
			return;
		}
	}
	complain(b, "\"%.40s\" is not true or false", b->node->text);
}

static void bind_enum(const struct binding *b, int *ret)
{
	const struct config_word *w;
	char choices[256] = "";
	size_t len = 0;

	for (w = b->key->words; w->word; w++) {
		if (!strcmp(w->word, b->node->text)) {
			*ret = w->value;
			return;
		}
		len += (size_t)snprintf(choices + len, sizeof(choices) - len,
					"%s%s", len ? ", " : "", w->word);
		len = base_min(len, sizeof(choices) - 1);
	}
	complain(b, "\"%.40s\" is not one of %s", b->node->text, choices);
}

static int bind_text(const struct binding *b, const char *text, char **ret)
{
	const char *wrong = b->key->check ? b->key->check(text) : NULL;

	if (wrong) {
		if (b->key->flags & CONFIG_SECRET)
			complain(b, "%s", wrong);
		else
			complain(b, "\"%.80s\" %s", text, wrong);
		return 0;
	}
	*ret = strdup(text);
	return *ret ? 0 : -ENOMEM;
}

/* The first line of a small file. */
static int read_secret(const struct binding *b, char **ret)
{
	char buf[SECRET_FILE_BYTES_MAX + 1];
	int err = 0, fd = open(b->node->text, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0) {
		complain(b, "%.200s: %s", b->node->text, strerror(errno));
		return 0;
	}
	n = read(fd, buf, sizeof(buf));
	if (n < 0) {
		complain(b, "%.200s: %s", b->node->text, strerror(errno));
	} else if ((size_t)n == sizeof(buf)) {
		complain(b, "%.200s: larger than %u bytes", b->node->text,
			 SECRET_FILE_BYTES_MAX);
	} else {
		while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == '\r'))
			n--;
		buf[n] = '\0';
		if (!n || strlen(buf) != (size_t)n)
			complain(b, "%.200s: %s", b->node->text,
				 n ? "has a NUL byte" : "is empty");
		else
			err = bind_text(b, buf, ret);
	}
	explicit_bzero(buf, sizeof(buf));
	close(fd);
	return err;
}

/* ---- lists ---- */

static int list_append(struct config_list *list, char *item)
{
	char **items = realloc(list->items, (list->count + 1) * sizeof(*items));

	if (!items)
		return -ENOMEM;
	list->items = items;
	items[list->count++] = item;
	return 0;
}

static int bind_item(const struct binding *b, const char *text,
		     struct config_list *list)
{
	char *item = NULL;
	int err = bind_text(b, text, &item);

	if (!err && item) {
		err = list_append(list, item);
		if (err)
			free(item);
	}
	return err;
}

/* "a, b" is the list of a and b, for the environment and --set. */
static int bind_commas(const struct binding *b, struct config_list *list)
{
	char *copy = strdup(b->node->text), *rest = copy, *word;
	int err = 0;

	if (!copy)
		return -ENOMEM;
	while (!err && (word = strsep(&rest, ","))) {
		char *end = word + strlen(word);

		while (*word == ' ')
			word++;
		while (end > word && end[-1] == ' ')
			*--end = '\0';
		if (*word)
			err = bind_item(b, word, list);
	}
	free(copy);
	return err;
}

static int bind_list(const struct binding *b, struct config_list *list)
{
	struct binding item = *b;
	int err = 0;

	if (b->node->kind == YAML_SCALAR)
		return bind_commas(b, list);
	for (item.node = b->node->first; item.node && !err;
	     item.node = item.node->next) {
		if (item.node->kind != YAML_SCALAR)
			complain(&item, "an item must be text, not %s",
				 yaml_kind_name(item.node->kind));
		else
			err = bind_item(&item, item.node->text, list);
	}
	return err;
}

static const struct config_key *find_in(const struct config_table *table,
					const struct yaml_node *node,
					bool *ret_is_file)
{
	size_t len = strlen(node->key);

	for (size_t i = 0; i < table->key_count; i++) {
		const struct config_key *k = &table->keys[i];
		size_t path_len = strlen(k->path);

		*ret_is_file = false;
		if (!strcmp(k->path, node->key))
			return k;
		*ret_is_file = true;
		if ((k->flags & CONFIG_SECRET) && len == path_len + 5 &&
		    !memcmp(k->path, node->key, path_len) &&
		    !strcmp(node->key + path_len, "_file"))
			return k;
	}
	return NULL;
}

static void complain_unknown(const struct binding *b,
			     const struct yaml_node *node)
{
	const struct config_table *table = b->key->each;
	struct yaml_node at = *node;
	char where[CONFIG_WHERE_BYTES];
	struct config_guess guess;

	at.line = node->key_line;
	at.column = node->key_column;
	config_guess_init(&guess, node->key);
	for (size_t i = 0; i < table->key_count; i++)
		config_guess_offer(&guess, table->keys[i].path,
				   strlen(table->keys[i].path));
	config_value_where(where, b->name, &at);
	if (guess.best)
		config_errors_add(b->errors, where,
				  "unknown key \"%.64s\" in %s (did you mean "
				  "\"%.*s\"?)",
				  node->key, b->key->path, (int)guess.best_len,
				  guess.best);
	else
		config_errors_add(b->errors, where,
				  "unknown key \"%.64s\" in %s", node->key,
				  b->key->path);
}

/* One entry of a list of maps into one zeroed struct. */
static int bind_map(const struct binding *b, void *item)
{
	const struct config_table *table = b->key->each;
	bool seen[64] = {false};
	int err = 0;

	ASSERT(table->key_count <= ARRAY_COUNT(seen));
	for (const struct yaml_node *n = b->node->first; n && !err;
	     n = n->next) {
		bool is_file;
		const struct config_key *k = find_in(table, n, &is_file);

		if (!k) {
			complain_unknown(b, n);
			continue;
		}
		if (seen[k - table->keys]) {
			complain(&(struct binding){k, b->name, n, b->errors},
				 "given both as a value and as a file");
			continue;
		}
		if (yaml_node_is_null(n))
			continue;
		seen[k - table->keys] = true;
		err = config_value_bind(k, item, b->name, n, is_file,
					b->errors);
	}
	for (size_t i = 0; i < table->key_count && !err; i++) {
		if (seen[i])
			continue;
		if (table->keys[i].flags & CONFIG_REQUIRED)
			complain(b, "an entry needs \"%s\"",
				 table->keys[i].path);
		err = config_value_bind(&table->keys[i], item, b->name, NULL,
					false, b->errors);
	}
	return err;
}

static void check_names(const struct binding *b, const struct config_maps *m)
{
	const struct config_table *table = b->key->each;
	const struct config_key *k = NULL;
	const struct yaml_node *n = b->node->first;

	for (size_t i = 0; i < table->key_count; i++)
		if (table->keys[i].flags & CONFIG_NAMES_ITEM)
			k = &table->keys[i];
	if (!k)
		return;
	for (size_t i = 0; i < m->count; i++, n = n->next) {
		const char *item = (const char *)m->items + i * table->bytes;

		for (size_t j = 0; j < i; j++) {
			const char *other =
				(const char *)m->items + j * table->bytes;

			if (!config_value_equal(k, item, other))
				continue;
			complain(&(struct binding){b->key, b->name, n,
						   b->errors},
				 "two entries have the same %s", k->path);
			break;
		}
	}
}

static int bind_maps(const struct binding *b, struct config_maps *maps)
{
	struct binding item = *b;
	int err = 0;

	if (b->node->kind != YAML_LIST) {
		complain(b, "must be a list of maps, not %s",
			 yaml_kind_name(b->node->kind));
		return 0;
	}
	if (!b->node->count)
		return 0;
	maps->items = calloc(b->node->count, b->key->each->bytes);
	if (!maps->items)
		return -ENOMEM;
	for (item.node = b->node->first; item.node && !err;
	     item.node = item.node->next) {
		void *to = (char *)maps->items +
			   maps->count++ * b->key->each->bytes;

		if (item.node->kind == YAML_MAP)
			err = bind_map(&item, to);
		else
			complain(&item, "an entry must be a map, not %s",
				 yaml_kind_name(item.node->kind));
	}
	if (!err)
		check_names(b, maps);
	return err;
}

/* ---- the verbs ---- */

static void *field_of(const struct config_key *key, void *values)
{
	return (char *)values + key->offset;
}

static const void *field_in(const struct config_key *key, const void *values)
{
	return (const char *)values + key->offset;
}

static int bind_node(const struct binding *b, void *field, bool is_file)
{
	enum config_type type = b->key->type;

	if (type != CONFIG_MAPS && b->node->kind != YAML_SCALAR &&
	    !(type == CONFIG_LIST && b->node->kind == YAML_LIST)) {
		complain(b, "must be %s, not %s",
			 type == CONFIG_LIST ? "a list" : "a single value",
			 yaml_kind_name(b->node->kind));
		return 0;
	}
	if (is_file)
		return read_secret(b, field);
	switch (type) {
	case CONFIG_STRING:
		return bind_text(b, b->node->text, field);
	case CONFIG_BOOL:
		bind_bool(b, field);
		return 0;
	case CONFIG_INT:
	case CONFIG_SIZE:
	case CONFIG_DURATION:
		bind_number(b, field);
		return 0;
	case CONFIG_ENUM:
		bind_enum(b, field);
		return 0;
	case CONFIG_LIST:
		return bind_list(b, field);
	case CONFIG_MAPS:
		return bind_maps(b, field);
	}
	return 0;
}

static int bind_default(const struct config_key *key, void *field,
			struct config_errors *errors)
{
	struct yaml_tree *tree;
	unsigned before = errors->count;
	int err;

	if (!key->fallback)
		return 0;
	err = yaml_tree_scalar("default", key->fallback, &tree);
	if (err)
		return err;
	err = bind_node(
		&(struct binding){key, "default", yaml_tree_root(tree), errors},
		field, false);
	yaml_tree_free(tree);
	ASSERT(errors->count == before); /* a default is our own text */
	return err;
}

int config_value_bind(const struct config_key *key, void *values,
		      const char *name, const struct yaml_node *node,
		      bool is_file, struct config_errors *errors)
{
	struct binding b = {key, name, node, errors};

	if (!node || yaml_node_is_null(node))
		return bind_default(key, field_of(key, values), errors);
	return bind_node(&b, field_of(key, values), is_file);
}

static void clear_text(char *text)
{
	if (!text)
		return;
	explicit_bzero(text, strlen(text));
	free(text);
}

void config_value_clear(const struct config_key *key, void *values)
{
	struct config_list *list = field_of(key, values);
	struct config_maps *maps = field_of(key, values);

	switch (key->type) {
	case CONFIG_STRING:
		clear_text(*(char **)field_of(key, values));
		return;
	case CONFIG_LIST:
		for (size_t i = 0; i < list->count; i++)
			clear_text(list->items[i]);
		free(list->items);
		return;
	case CONFIG_MAPS:
		for (size_t i = 0; i < maps->count; i++)
			for (size_t k = 0; k < key->each->key_count; k++)
				config_value_clear(
					&key->each->keys[k],
					(char *)maps->items +
						i * key->each->bytes);
		free(maps->items);
		return;
	case CONFIG_BOOL:
	case CONFIG_INT:
	case CONFIG_SIZE:
	case CONFIG_DURATION:
	case CONFIG_ENUM:
		return;
	}
}

static bool text_equal(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static bool maps_equal(const struct config_table *table,
		       const struct config_maps *a, const struct config_maps *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		for (size_t k = 0; k < table->key_count; k++)
			if (!config_value_equal(
				    &table->keys[k],
				    (const char *)a->items + i * table->bytes,
				    (const char *)b->items + i * table->bytes))
				return false;
	return true;
}

static bool lists_equal(const struct config_list *a,
			const struct config_list *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++)
		if (strcmp(a->items[i], b->items[i]))
			return false;
	return true;
}

bool config_value_equal(const struct config_key *key, const void *a,
			const void *b)
{
	const void *x = field_in(key, a), *y = field_in(key, b);

	switch (key->type) {
	case CONFIG_STRING:
		return text_equal(*(char *const *)x, *(char *const *)y);
	case CONFIG_BOOL:
		return *(const bool *)x == *(const bool *)y;
	case CONFIG_INT:
	case CONFIG_SIZE:
	case CONFIG_DURATION:
		return *(const uint64_t *)x == *(const uint64_t *)y;
	case CONFIG_ENUM:
		return *(const int *)x == *(const int *)y;
	case CONFIG_LIST:
		return lists_equal(x, y);
	case CONFIG_MAPS:
		return maps_equal(key->each, x, y);
	}
	return false;
}

static void print_text(const char *text, FILE *out)
{
	if (!text) {
		fputs("null", out);
		return;
	}
	fputc('"', out);
	for (const char *p = text; *p; p++) {
		if (*p == '"' || *p == '\\')
			fprintf(out, "\\%c", *p);
		else if ((unsigned char)*p < 0x20)
			fprintf(out, "\\x%02x", (unsigned char)*p);
		else
			fputc(*p, out);
	}
	fputc('"', out);
}

static void print_maps(const struct config_key *key,
		       const struct config_maps *maps, unsigned indent,
		       FILE *out)
{
	if (!maps->count)
		fputs(" []", out);
	for (size_t i = 0; i < maps->count; i++) {
		const char *item =
			(const char *)maps->items + i * key->each->bytes;

		for (size_t k = 0; k < key->each->key_count; k++) {
			fprintf(out, "\n%*s%s%s:", (int)indent, "",
				k ? "  " : "- ", key->each->keys[k].path);
			config_value_print(&key->each->keys[k], item,
					   indent + 4, out);
		}
	}
}

void config_value_print(const struct config_key *key, const void *values,
			unsigned indent, FILE *out)
{
	const void *field = field_in(key, values);
	const struct config_list *list = field;
	const struct config_word *w;

	if (key->type == CONFIG_MAPS) {
		print_maps(key, field, indent, out);
		return;
	}
	fputc(' ', out);
	switch (key->type) {
	case CONFIG_STRING:
		if ((key->flags & CONFIG_SECRET) && *(char *const *)field)
			fputs("\"<redacted>\"", out);
		else
			print_text(*(char *const *)field, out);
		return;
	case CONFIG_BOOL:
		fputs(*(const bool *)field ? "true" : "false", out);
		return;
	case CONFIG_INT:
	case CONFIG_SIZE:
	case CONFIG_DURATION:
		print_number(key->type, *(const uint64_t *)field, out);
		return;
	case CONFIG_ENUM:
		for (w = key->words; w->word; w++)
			if (w->value == *(const int *)field)
				fputs(w->word, out);
		return;
	case CONFIG_LIST:
		fputc('[', out);
		for (size_t i = 0; i < list->count; i++) {
			fputs(i ? ", " : "", out);
			print_text(list->items[i], out);
		}
		fputc(']', out);
		return;
	case CONFIG_MAPS:
		return;
	}
}
