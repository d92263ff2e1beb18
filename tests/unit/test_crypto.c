/* tests/unit/test_crypto.c: known answers, refusals, and the key file. */
#include "tests/unit/test.h"

#include <pthread.h>

#include "base/crypto.h"

static void from_hex(uint8_t *out, const char *hex)
{
	unsigned v;

	for (; *hex; hex += 2) {
		assert_int_equal(sscanf(hex, "%2x", &v), 1);
		*out++ = (uint8_t)v;
	}
}

static struct io *make_io(void)
{
	const char *reason;
	struct io *io;

	assert_int_equal(crypto_init(), 0);
	assert_int_equal(io_create(IO_ENGINE_THREADS, &io, &reason), 0);
	return io;
}

static struct crypto_key *key_of(const char *hex)
{
	uint8_t bytes[CRYPTO_KEY_BYTES];
	struct crypto_key *key;

	from_hex(bytes, hex);
	assert_int_equal(crypto_init(), 0);
	assert_int_equal(crypto_key_create(bytes, &key), 0);
	return key;
}

static struct crypto_aead *aead_of(const char *hex)
{
	struct crypto_key *key = key_of(hex);
	struct crypto_aead *aead;

	assert_int_equal(crypto_aead_create(key, &aead), 0);
	crypto_key_free(key);
	return aead;
}

/* Test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation",
 * which SP 800-38D was made from. */
static const char gcm_key[] = "feffe9928665731c6d6a8f9467308308"
			      "feffe9928665731c6d6a8f9467308308";
static const char gcm_nonce[] = "cafebabefacedbaddecaf888";
static const char gcm_aad[] = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
static const char gcm_plain[] =
	"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
	"1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39";
static const char gcm_cipher[] =
	"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
	"8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662";
static const char gcm_tag[] = "76fc6ece0f4e1768cddf8853bb2d551b";

#define GCM_BYTES 60
#define GCM_AAD_BYTES 20

struct gcm {
	uint8_t nonce[12], aad[20], plain[60], cipher[60], tag[16];
};

static struct gcm gcm_vector(void)
{
	struct gcm v;

	from_hex(v.nonce, gcm_nonce);
	from_hex(v.aad, gcm_aad);
	from_hex(v.plain, gcm_plain);
	from_hex(v.cipher, gcm_cipher);
	from_hex(v.tag, gcm_tag);
	return v;
}

TEST("AES-256-GCM gives the published answer, again and again, in place too")
{
	struct crypto_aead *aead = aead_of(gcm_key);
	struct gcm v = gcm_vector();
	uint8_t buf[GCM_BYTES], tag[16];

	for (int round = 0; round < 3; round++) {
		memcpy(buf, v.plain, sizeof(buf));
		assert_int_equal(crypto_seal(aead, v.nonce, v.aad,
					     GCM_AAD_BYTES, buf, GCM_BYTES, buf,
					     tag),
				 0);
		assert_memory_equal(buf, v.cipher, GCM_BYTES);
		assert_memory_equal(tag, v.tag, 16);
		assert_int_equal(crypto_open(aead, v.nonce, v.aad,
					     GCM_AAD_BYTES, buf, GCM_BYTES, buf,
					     tag),
				 0);
		assert_memory_equal(buf, v.plain, GCM_BYTES);
	}
	crypto_aead_free(aead);
}

TEST("one changed bit anywhere is refused, and no plaintext is released")
{
	struct crypto_aead *aead = aead_of(gcm_key);
	struct gcm good = gcm_vector();
	static const uint8_t zeros[GCM_BYTES];
	uint8_t out[GCM_BYTES];

	for (size_t bit = 0; bit < 8 * (sizeof(good) - GCM_BYTES); bit++) {
		struct gcm v = good;
		size_t at = bit / 8;

		/* Everything but the plaintext. */
		if (at >= offsetof(struct gcm, plain))
			at += GCM_BYTES;
		((uint8_t *)&v)[at] ^= (uint8_t)(1u << (bit % 8));
		memset(out, 0xaa, sizeof(out));
		assert_int_equal(crypto_open(aead, v.nonce, v.aad,
					     GCM_AAD_BYTES, v.cipher, GCM_BYTES,
					     out, v.tag),
				 -E_CORRUPT);
		assert_memory_equal(out, zeros, GCM_BYTES);
	}
	/* The context is not spoilt by the refusals. */
	assert_int_equal(crypto_open(aead, good.nonce, good.aad, GCM_AAD_BYTES,
				     good.cipher, GCM_BYTES, out, good.tag),
			 0);
	crypto_aead_free(aead);
}

TEST("empty data and empty associated data can be sealed and opened")
{
	struct crypto_aead *aead = aead_of(gcm_key);
	struct gcm v = gcm_vector();
	uint8_t tag[16], other[16], out[GCM_BYTES];

	assert_int_equal(crypto_seal(aead, v.nonce, v.aad, GCM_AAD_BYTES, NULL,
				     0, NULL, tag),
			 0);
	assert_int_equal(crypto_open(aead, v.nonce, v.aad, GCM_AAD_BYTES, NULL,
				     0, NULL, tag),
			 0);
	assert_int_equal(
		crypto_seal(aead, v.nonce, NULL, 0, NULL, 0, NULL, other), 0);
	assert_memory_not_equal(tag, other, 16);
	assert_int_equal(
		crypto_open(aead, v.nonce, NULL, 0, NULL, 0, NULL, tag),
		-E_CORRUPT);
	assert_int_equal(crypto_seal(aead, v.nonce, NULL, 0, v.plain, GCM_BYTES,
				     out, tag),
			 0);
	assert_int_equal(
		crypto_open(aead, v.nonce, NULL, 0, out, GCM_BYTES, out, tag),
		0);
	assert_memory_equal(out, v.plain, GCM_BYTES);
	crypto_aead_free(aead);
}

TEST("hashes are BLAKE2b-256, whole, in parts and piece by piece")
{
	static const char abc[] = "bddd813c634239723171ef3fee98579b"
				  "94964e3bb1cb3e427262c8c068d52319";
	uint8_t expected[32], got[32];
	char a[] = "a", bc[] = "bc";
	struct iovec parts[] = {{a, 1}, {NULL, 0}, {bc, 2}};
	struct crypto_hasher *h;

	assert_int_equal(crypto_init(), 0);
	from_hex(expected, abc);
	crypto_hash(got, parts, 3);
	assert_memory_equal(got, expected, 32);
	assert_int_equal(crypto_hasher_create(&h), 0);
	crypto_hasher_add(h, "ab", 2);
	crypto_hasher_add(h, "c", 1);
	crypto_hasher_finish(h, got);
	assert_memory_equal(got, expected, 32);
	assert_int_equal(crypto_hasher_create(&h), 0);
	crypto_hasher_finish(h, NULL);
}

TEST("a key's id is the documented hash and its export the digits given")
{
	static const char hex[] = "000102030405060708090a0b0c0d0e0f"
				  "101112131415161718191a1b1c1d1e1f";
	struct crypto_key *key = key_of(hex);
	uint8_t id[CRYPTO_KEY_ID_BYTES], expected[CRYPTO_KEY_ID_BYTES];
	char text[65];

	/* blake2b-128("holdfast key id 1\0" + key), computed elsewhere. */
	from_hex(expected, "f16b1fed978aed3f08f29a1f5b304f3f");
	crypto_key_id(key, id);
	assert_memory_equal(id, expected, sizeof(id));
	crypto_key_export(key, text);
	assert_string_equal(text, hex);
	crypto_key_free(key);
	crypto_key_free(NULL);
}

TEST("a thousand keys live at once, each its own, and their places are reused")
{
	enum { COUNT = 1000 };
	static struct crypto_key *keys[COUNT];
	struct io *io = make_io();
	char text[65], other[65];

	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < COUNT; i++) {
			uint8_t bytes[32] = {(uint8_t)i, (uint8_t)(i >> 8),
					     (uint8_t)round};

			assert_int_equal(crypto_key_create(bytes, &keys[i]), 0);
		}
		for (int i = 0; i < COUNT; i++) {
			crypto_key_export(keys[i], text);
			snprintf(other, sizeof(other), "%02x%02x%02x", i & 0xff,
				 i >> 8, round);
			assert_memory_equal(text, other, 6);
			crypto_key_free(keys[i]);
		}
	}
	assert_int_equal(crypto_key_random(io, &keys[0]), 0);
	assert_int_equal(crypto_key_random(io, &keys[1]), 0);
	crypto_key_export(keys[0], text);
	crypto_key_export(keys[1], other);
	assert_string_not_equal(text, other);
	crypto_key_free(keys[0]);
	crypto_key_free(keys[1]);
	io_free(io);
}

TEST("a wrapped key opens under its master key and context only")
{
	struct io *io = make_io();
	struct crypto_key *master = key_of(gcm_key), *key, *other, *opened;
	uint8_t wrapped[CRYPTO_WRAPPED_BYTES], again[CRYPTO_WRAPPED_BYTES];
	char text[65], expected[65];

	assert_int_equal(crypto_key_random(io, &key), 0);
	assert_int_equal(crypto_key_random(io, &other), 0);
	assert_int_equal(crypto_wrap(io, master, key, "segment 7", 9, wrapped),
			 0);
	assert_int_equal(crypto_wrap(io, master, key, "segment 7", 9, again),
			 0);
	assert_memory_not_equal(wrapped, again, sizeof(wrapped));
	assert_int_equal(
		crypto_unwrap(master, wrapped, "segment 7", 9, &opened), 0);
	crypto_key_export(key, expected);
	crypto_key_export(opened, text);
	assert_string_equal(text, expected);
	crypto_key_free(opened);
	opened = NULL;
	assert_int_equal(crypto_unwrap(other, wrapped, "segment 7", 9, &opened),
			 -E_KEY);
	assert_int_equal(
		crypto_unwrap(master, wrapped, "segment 8", 9, &opened),
		-E_KEY);
	for (size_t i = 0; i < sizeof(wrapped); i++) {
		wrapped[i] ^= 0x40;
		assert_int_equal(
			crypto_unwrap(master, wrapped, "segment 7", 9, &opened),
			-E_KEY);
		wrapped[i] ^= 0x40;
	}
	assert_null(opened);
	crypto_key_free(key);
	crypto_key_free(other);
	crypto_key_free(master);
	io_free(io);
}

/* ---- the key file ---- */

static void write_file(const char *path, const char *text, mode_t mode)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(path, mode), 0);
}

TEST("a made key file is private, holds the key, and is never made twice")
{
	struct io *io = make_io();
	struct crypto_key *made, *loaded;
	char path[512], beside[512], text[65], other[65];
	struct stat st;

	test_directory();
	test_path(path, sizeof(path), "master.key");
	test_path(beside, sizeof(beside), "master.key.new");
	assert_int_equal(crypto_keyfile_load(io, path, &loaded), -ENOENT);
	assert_int_equal(crypto_keyfile_make(io, path, &made), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(st.st_size, 65);
	assert_int_equal(access(beside, F_OK), -1);
	assert_int_equal(crypto_keyfile_load(io, path, &loaded), 0);
	crypto_key_export(made, text);
	crypto_key_export(loaded, other);
	assert_string_equal(text, other);
	crypto_key_free(loaded);
	crypto_key_free(made);
	assert_int_equal(crypto_keyfile_make(io, path, &made), -EEXIST);
	assert_int_equal(crypto_keyfile_load(io, path, &loaded), 0);
	crypto_key_export(loaded, other);
	assert_string_equal(text, other);
	crypto_key_free(loaded);
	io_free(io);
}

TEST("what a crash left beside the key file does not matter")
{
	struct io *io = make_io();
	struct crypto_key *key;
	char path[512], beside[512];
	struct stat st;

	test_directory();
	test_path(path, sizeof(path), "master.key");
	write_file(test_path(beside, sizeof(beside), "master.key.new"),
		   "half a key, and more text than any key file has, so that "
		   "the rest would show after the key was written over it",
		   0600);
	assert_int_equal(crypto_keyfile_make(io, path, &key), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, 65);
	crypto_key_free(key);
	io_free(io);
}

static int load_as_nobody(struct io *io, const char *path)
{
	struct crypto_key *key = NULL;
	int err;

	assert_int_equal(setegid(65534), 0);
	assert_int_equal(seteuid(65534), 0);
	err = crypto_keyfile_load(io, path, &key);
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(setegid(0), 0);
	crypto_key_free(key);
	return err;
}

TEST("a key file of root's is read by its group, as a Kubernetes Secret is")
{
	static const char text[] = "feffe9928665731c6d6a8f9467308308"
				   "feffe9928665731c6d6a8f9467308308\n";
	struct io *io = make_io();
	char path[] = "/tmp/holdfast-key-XXXXXX";
	int fd;

	if (geteuid()) {
		io_free(io);
		skip();
	}
	fd = mkstemp(path);
	assert_true(fd >= 0);
	close(fd);
	write_file(path, text, 0440);
	assert_int_equal(chown(path, 0, 65534), 0);
	assert_int_equal(load_as_nobody(io, path), 0);
	assert_int_equal(chmod(path, 0460), 0);
	assert_int_equal(load_as_nobody(io, path), -E_KEY);
	assert_int_equal(chmod(path, 0444), 0);
	assert_int_equal(load_as_nobody(io, path), -E_KEY);
	/* Our own file is for us alone. */
	assert_int_equal(chmod(path, 0440), 0);
	assert_int_equal(chown(path, 65534, 65534), 0);
	assert_int_equal(load_as_nobody(io, path), -E_KEY);
	unlink(path);
	io_free(io);
}

TEST("a key file that others can read, or that is no key, is refused")
{
	static const char good[] = "feffe9928665731c6d6a8f9467308308"
				   "feffe9928665731c6d6a8f9467308308\n";
	static const struct {
		const char *text;
		mode_t mode;
		int err;
	} cases[] = {
		{good, 0600, 0},
		{good, 0400, 0},
		{good, 0640, -E_KEY},
		{good, 0604, -E_KEY},
		{"", 0600, -E_KEY},
		{"\n", 0600, -E_KEY},
		{"feffe9928665731c6d6a8f9467308308\n", 0600, -E_KEY},
		{"feffe9928665731c6d6a8f9467308308"
		 "feffe9928665731c6d6a8f9467308308",
		 0600, 0},
		{"feffe9928665731c6d6a8f9467308308"
		 "feffe9928665731c6d6a8f946730830g\n",
		 0600, -E_KEY},
		{"feffe9928665731c6d6a8f9467308308"
		 "feffe9928665731c6d6a8f94673083080\n",
		 0600, -E_KEY},
		{"feffe9928665731c6d6a8f9467308308"
		 "feffe9928665731c6d6a8f9467308308\n\n",
		 0600, -E_KEY},
	};
	struct io *io = make_io();
	char path[512];

	test_directory();
	test_path(path, sizeof(path), "key");
	for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
		struct crypto_key *key = NULL;

		unlink(path);
		write_file(path, cases[i].text, cases[i].mode);
		assert_int_equal(crypto_keyfile_load(io, path, &key),
				 cases[i].err);
		assert_true((key != NULL) == !cases[i].err);
		crypto_key_free(key);
	}
	io_free(io);
}

struct maker {
	const char *path;
	struct io *io;
	char text[65];
	int err;
};

static void *make_key(void *arg)
{
	struct maker *m = arg;
	struct crypto_key *key;

	m->err = crypto_keyfile_make(m->io, m->path, &key);
	if (!m->err) {
		crypto_key_export(key, m->text);
		crypto_key_free(key);
	}
	return NULL;
}

TEST("of several makers at once exactly one succeeds, with what the file holds")
{
	struct io *io = make_io();
	char path[512], text[65];

	for (int round = 0; round < 20; round++) {
		struct maker makers[4] = {0};
		pthread_t threads[4];
		struct crypto_key *key;
		int made = 0;

		test_directory();
		test_path(path, sizeof(path), "master.key");
		for (int i = 0; i < 4; i++) {
			makers[i].path = path;
			makers[i].io = io;
			assert_int_equal(pthread_create(&threads[i], NULL,
							make_key, &makers[i]),
					 0);
		}
		for (int i = 0; i < 4; i++)
			pthread_join(threads[i], NULL);
		assert_int_equal(crypto_keyfile_load(io, path, &key), 0);
		crypto_key_export(key, text);
		crypto_key_free(key);
		for (int i = 0; i < 4; i++) {
			if (makers[i].err) {
				assert_true(makers[i].err == -EEXIST ||
					    makers[i].err == -EAGAIN);
				continue;
			}
			made++;
			assert_string_equal(makers[i].text, text);
		}
		assert_int_equal(made, 1);
	}
	io_free(io);
}

/* ---- passwords ---- */

TEST("a password verifies against its hash, another one does not")
{
	char hash[CRYPTO_PASSWORD_HASH_BYTES];
	char again[CRYPTO_PASSWORD_HASH_BYTES];

	assert_int_equal(crypto_init(), 0);
	assert_int_equal(crypto_password_hash("correct horse", hash), 0);
	assert_int_equal(crypto_password_hash("correct horse", again), 0);
	assert_string_not_equal(hash, again);
	assert_true(crypto_password_hash_is_valid(hash));
	assert_int_equal(crypto_password_verify(hash, "correct horse"), 0);
	assert_int_equal(crypto_password_verify(hash, "correct horsf"),
			 -E_REFUSED);
	assert_int_equal(crypto_password_verify(hash, ""), -E_REFUSED);
}

TEST("what is not an Argon2id hash is recognised and verifies nothing")
{
	static const char *const bad[] = {
		"",
		"secret",
		"$argon2id$",
		"$argon2id$v=19$m=65536,t=2,p=1$",
		"$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$"
		"RdescudvJCsgt3ub+b4dWRWJTmaaJObG",
		"$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW"};

	assert_int_equal(crypto_init(), 0);
	for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
		assert_false(crypto_password_hash_is_valid(bad[i]));
		assert_int_equal(crypto_password_verify(bad[i], "secret"),
				 -E_REFUSED);
	}
}

TEST("zeroing zeroes")
{
	uint8_t buf[64], zeros[64] = {0};

	memset(buf, 0xaa, sizeof(buf));
	crypto_zero(buf, sizeof(buf));
	assert_memory_equal(buf, zeros, sizeof(buf));
}

TEST_MAIN()
