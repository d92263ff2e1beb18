/* replication/kubernetes_pod.c: see kubernetes_pod.h. */
#include "replication/kubernetes_pod.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/json.h"

#define LABEL "leader"
#define EPOCH "holdfast/epoch"
#define SINCE "holdfast/since"
/* As members of a JSON pointer: "/" is "~1" (RFC 6901). */
#define LABEL_AT "/metadata/labels/leader"
#define EPOCH_AT "/metadata/annotations/holdfast~1epoch"
#define VERSION_AT "/metadata/resourceVersion"

/* ---- what is there ---- */

static bool copy_text(json_t *value, char ret[KUBERNETES_POD_TEXT_BYTES])
{
	const char *text = json_string_value(value);

	if (!text || strlen(text) >= KUBERNETES_POD_TEXT_BYTES)
		return false;
	snprintf(ret, KUBERNETES_POD_TEXT_BYTES, "%s", text);
	return true;
}

/* Digits only, without leading zeros, or it is nothing that we wrote. */
static uint64_t epoch_of(const char *text)
{
	char again[KUBERNETES_POD_TEXT_BYTES];
	uint64_t epoch = strtoull(text, NULL, 10);

	snprintf(again, sizeof(again), "%" PRIu64, epoch);
	return strcmp(text, again) ? 0 : epoch;
}

static enum kubernetes_pod_label label_of(json_t *value)
{
	const char *text = json_string_value(value);

	if (!text)
		return KUBERNETES_POD_UNLABELLED;
	if (!strcmp(text, "yes"))
		return KUBERNETES_POD_YES;
	return strcmp(text, "no") ? KUBERNETES_POD_OTHER : KUBERNETES_POD_NO;
}

int kubernetes_pod_parse(const char *json, size_t len,
			 struct kubernetes_pod *ret)
{
	struct kubernetes_pod pod = {0};
	json_t *root, *metadata, *epoch;
	const char *kind;
	int err = 0;

	if (!len)
		return -E_CORRUPT;
	root = json_loadb(json, len, 0, NULL);
	kind = json_string_value(json_object_get(root, "kind"));
	metadata = json_object_get(root, "metadata");
	epoch = json_object_get(json_object_get(metadata, "annotations"),
				EPOCH);
	pod.label = label_of(
		json_object_get(json_object_get(metadata, "labels"), LABEL));
	pod.annotated = epoch != NULL;
	if (!kind || strcmp(kind, "Pod") != 0 ||
	    !copy_text(json_object_get(metadata, "resourceVersion"),
		       pod.version) ||
	    (epoch && !copy_text(epoch, pod.epoch_text)))
		err = -E_CORRUPT;
	pod.epoch = epoch_of(pod.epoch_text);
	json_decref(root);
	if (!err)
		*ret = pod;
	return err;
}

bool kubernetes_pod_is(const struct kubernetes_pod *pod, bool leader,
		       uint64_t epoch)
{
	if (!leader)
		return pod->label == KUBERNETES_POD_NO;
	return pod->label == KUBERNETES_POD_YES && pod->epoch == epoch;
}

bool kubernetes_pod_is_stale(const struct kubernetes_pod *pod, uint64_t epoch)
{
	return pod->label == KUBERNETES_POD_YES && pod->epoch < epoch;
}

/* ---- patches ---- */

/* 2026-11-30T09:37:23.123Z */
static void write_time(char buf[64], uint64_t wall_ms)
{
	time_t seconds = (time_t)(wall_ms / 1000);
	struct tm tm;

	gmtime_r(&seconds, &tm);
	snprintf(buf, 64, "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ",
		 tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
		 tm.tm_min, tm.tm_sec, (unsigned)(wall_ms % 1000));
}

/* Takes value, which may be NULL for "no memory". */
static char *dump(json_t *value)
{
	char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;

	json_decref(value);
	return text;
}

char *kubernetes_pod_own_yes(const struct kubernetes_pod *seen, uint64_t epoch,
			     uint64_t wall_ms)
{
	char since[64], number[24];

	write_time(since, wall_ms);
	snprintf(number, sizeof(number), "%" PRIu64, epoch);
	return dump(json_pack("{s:{s:s, s:{s:s}, s:{s:s, s:s}}}", "metadata",
			      "resourceVersion", seen->version, "labels", LABEL,
			      "yes", "annotations", EPOCH, number, SINCE,
			      since));
}

char *kubernetes_pod_own_no(uint64_t wall_ms)
{
	char since[64];

	write_time(since, wall_ms);
	return dump(json_pack("{s:{s:{s:s}, s:{s:s}}}", "metadata", "labels",
			      LABEL, "no", "annotations", SINCE, since));
}

static json_t *operation(const char *op, const char *path, const char *value)
{
	return json_pack("{s:s, s:s, s:s}", "op", op, "path", path, "value",
			 value);
}

/* A label without an epoch cannot be tested for having none: servers disagree
 * about a test for what is not there.  Then the pod must be exactly as seen. */
char *kubernetes_pod_peer_no(const struct kubernetes_pod *seen)
{
	return dump(json_pack(
		"[o, o, o]", operation("test", LABEL_AT, "yes"),
		seen->annotated ? operation("test", EPOCH_AT, seen->epoch_text)
				: operation("test", VERSION_AT, seen->version),
		operation("replace", LABEL_AT, "no")));
}

/* ---- names ---- */

bool kubernetes_pod_name_is_valid(const char *name)
{
	static const char ends[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	size_t len = strlen(name);

	return len && len <= 253 &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") == len &&
	       strchr(ends, name[0]) && strchr(ends, name[len - 1]);
}
