/* replication/model/leadership.pml: seal, then read; write, then check.
 *
 * Some brokers share one directory.  There is no lock in it and no clock:
 * whoever wants to may take over at any time, as if every lock were doubled,
 * lost, or stolen from a leader that goes on leading with it or without it.
 * Whatever locks there are can only take behaviour away from this.
 *
 * A broker here is one life, from claiming to death.  A pause is a life that
 * takes no step for a while, a crash one that takes none any more: spin's
 * interleaving has both, at every step.  What a life had handed to the storage
 * may still become visible, and durable, after others have read.  The storage
 * itself may restart and forget what it had shown but not made durable.
 *
 * Frames of a life: 0 is EPOCH-START, alone; then up to two are in flight,
 * durable in any order, with one look at the claim for all that were durable
 * before the look.  Frame 2 lies in the second segment.
 *
 * What must hold in every state that can be reached is what a lone candidate
 * would find in it (see the observer):
 *
 *   1. every confirmed frame is in the history that it reads;
 *   2. it is the history that every leader before it has read: of each epoch
 *      below exactly the frames that the next EPOCH-START names;
 *   3. nothing in it looks like damage: no cut is out of reach, no frame
 *      vouches for one that is not there;
 *   4. what a follower was told to be acknowledged is in it.
 *
 * With ALONE: at some moment all stop where they are, for good; one more
 * candidate comes, takes the same steps as everybody, and must lead.
 *
 * What the storage is trusted with: creation is exclusive; a file's size, asked
 * for, is its size at the storage at some moment between question and answer;
 * what is synced stays.  Mutants take one of these or one step away; run knows
 * them all. */

#ifndef BROKERS
#define BROKERS 2
#endif
#ifndef EPOCHS
#define EPOCHS 2
#endif
#ifndef RESTARTS
#define RESTARTS 1
#endif
#ifdef ALONE
#define LIVES (BROKERS + 1)
#else
#define LIVES BROKERS
#endif
#define FRAMES 3
#define PREFIX(mask) \
	((mask & 1) == 0 -> 0 : \
	 ((mask & 2) == 0 -> 1 : ((mask & 4) == 0 -> 2 : 3)))

/* ---- the storage.  Names lead to lives: 0 is nobody, life 1 claimed first.
 * A name that is used twice leads to the later one. ---- */
byte lives;
byte claim[EPOCHS + 1];	 /* epochs/<N> */
byte first[EPOCHS + 1];	 /* segments/<N>-1.log, with frames 0 and 1 */
byte second[EPOCHS + 1]; /* segments/<N>-2.log, with frame 2 */
bool sealed[LIVES + 1];
bool seal_durable[LIVES + 1];
byte issued[LIVES + 1]; /* bits: frames */
byte visible[LIVES + 1];
byte durable[LIVES + 1];
byte parent[LIVES + 1];	 /* in EPOCH-START: an epoch */
byte cut[LIVES + 1];	 /* in EPOCH-START: frames of the parent */
byte vouched[LIVES + 1]; /* durable_lsn in frame 2 */
byte restarts;

/* ---- what is known outside ---- */
byte confirmed[LIVES + 1]; /* frames whose senders were told */

#ifdef ALONE
bool frozen;
byte alone; /* the pid that goes on */
#define AWAKE provided(!frozen || _pid == alone)
#else
#define AWAKE
#endif
#ifdef WAIT_FOR_LOCK
bool locked;
#endif

/* What can be seen of a life under the names of an epoch. */
#define SEEN(epoch, life) \
	(visible[life] & (second[epoch] == life -> 7 : 3))

#ifndef ALONE
/* ---- every state is looked at ---- */

hidden byte o_epoch, o_life, o_child, o_frames, o_met;
hidden byte o_take[LIVES + 1]; /* frames of each life in the history */

/* What lets a follower deliver, without a claim, all that its EPOCH-START
 * names: a frame that was built when that start was confirmed. */
#ifdef FOLLOW_START
#define VOUCHES(life) (visible[life] & 1)
#else
#define VOUCHES(life) (visible[life] & 2)
#endif

active proctype observer()
{
end:	do
	:: d_step {
		o_met = 0;
		o_child = 0;
		o_epoch = EPOCHS;
		do
		:: o_epoch > 0 && (visible[first[o_epoch]] & 1) == 0 ->
			o_epoch--
		:: else -> break
		od;
		do
		:: o_epoch == 0 -> break
		:: else ->
			o_life = first[o_epoch];
			assert(o_life != 0);
			o_frames = PREFIX(SEEN(o_epoch, o_life));
			if
			:: o_child == 0 ->
				/* The last one: its end is found by looking. */
				assert(!(SEEN(o_epoch, o_life) & 4) ||
				       vouched[o_life] <= o_frames)
			:: else ->
				assert(o_frames >= cut[o_child]);
#ifndef PAST_CUT
				o_frames = cut[o_child];
#endif
				assert(o_frames == cut[o_child])
			fi;
			assert(confirmed[o_life] <= o_frames);
			o_met = o_met | (1 << o_life);
			o_take[o_life] = o_frames;
			o_child = o_life;
			o_epoch = parent[o_life]
		od;
		o_life = 1;
		do
		:: o_life <= LIVES ->
			assert((o_met & (1 << o_life)) ||
			       confirmed[o_life] == 0);
			assert(!VOUCHES(o_life) || cut[o_life] == 0 ||
			       o_take[first[parent[o_life]]] >= cut[o_life]);
			o_life++
		:: else -> break
		od;
		o_life = 1;
		do
		:: o_life <= LIVES -> o_take[o_life] = 0; o_life++
		:: else -> break
		od;
		o_epoch = 0; o_life = 0; o_child = 0; o_frames = 0; o_met = 0
	   }
	od
}
#endif

/* ---- the storage does what it was asked for, whenever it likes ---- */

#ifdef NO_RESTARTS
#define STORE(l, f) \
	:: d_step { (issued[l] & (1 << f)) && !(durable[l] & (1 << f)) -> \
		visible[l] = visible[l] | (1 << f); \
		durable[l] = durable[l] | (1 << f) }
#else
#define STORE(l, f) \
	:: d_step { (issued[l] & (1 << f)) && !(visible[l] & (1 << f)) -> \
		visible[l] = visible[l] | (1 << f) } \
	:: d_step { (visible[l] & (1 << f)) && !(durable[l] & (1 << f)) -> \
		durable[l] = durable[l] | (1 << f) }
#endif
#define STORE_LIFE(l) STORE(l, 0) STORE(l, 1) STORE(l, 2)

hidden byte s_life;

active proctype storage()
{
end:	do
	STORE_LIFE(1)
#if LIVES >= 2
	STORE_LIFE(2)
#endif
#if LIVES >= 3
	STORE_LIFE(3)
#endif
#if LIVES >= 4
	STORE_LIFE(4)
#endif
#ifndef NO_RESTARTS
#ifdef ALONE
	:: d_step { !frozen && restarts < RESTARTS ->
#else
	:: d_step { restarts < RESTARTS ->
#endif
		restarts++;
		s_life = 1;
		do
		:: s_life <= LIVES ->
			visible[s_life] = durable[s_life];
			sealed[s_life] = seal_durable[s_life];
			s_life++
		:: else -> break
		od;
		s_life = 0
	   }
#endif
	od
}

/* ---- one life ---- */

/* Lives are numbered by their claims. */
#ifdef ALONE
#define IN_TURN (lives == me - 1 || _pid == alone)
#else
#define IN_TURN (lives == me - 1)
#endif

/* The names of segments below mine. */
inline list_segments()
{
	atomic {
		m = 1;
		do
		:: m < e ->
			names1 = names1 | (first[m] -> 1 << m : 0);
			names2 = names2 | (second[m] -> 1 << m : 0);
			m++
		:: else -> break
		od
	}
}

proctype broker(byte me) AWAKE
{
	byte e = 0;	    /* my epoch */
	byte m = 0;	    /* an epoch that is looked at */
	byte n = 0;	    /* frames: read, later durable */
	byte names1 = 0, names2 = 0; /* bits: what a listing showed */
	byte next = 0;	    /* frame to issue */
	byte seen = 0;	    /* frames confirmed */
	bool may = false;
#ifdef CACHED_CHECK
	bool cached = true;
#endif
#ifdef SEAL_LISTED
	byte claims = 0;
#endif

#ifdef WAIT_FOR_LOCK
	d_step { !locked -> locked = true }
#endif

	/* 1. Claim.  The listing says where to begin.  Without deletion of
	 * claims it does not matter how old it is: numbers have no holes, and
	 * one that is taken is met by O_EXCL. */
#if defined(GC_CLAIMS) || defined(SEAL_LISTED)
	d_step {
		do
		:: m < EPOCHS ->
			m++;
			if
			:: claim[m] -> n = m
#ifdef SEAL_LISTED
				; claims = claims | (1 << m)
#endif
			:: else
			fi
		:: else -> break
		od;
		m = n; n = 0
	}
#ifdef SEAL_LISTED
	/* Meanwhile others claim; the listing goes on and shows the last of
	 * them, but not those whose place in the directory it has passed. */
	d_step {
		do
		:: m < EPOCHS && claim[m + 1] -> m++
		:: else -> break
		od;
		claims = claims | (1 << m)
	}
#endif
#endif
	atomic {
		d_step {
			IN_TURN ->
			e = m + 1;
			do
			:: e <= EPOCHS && claim[e] ->
#ifdef SEAL_LISTED
				claims = claims | (1 << e);
#endif
				e++
			:: else -> break
			od;
			if
			:: e <= EPOCHS -> lives = me; claim[e] = me
			:: else -> skip
			fi;
			m = 0
		}
		if
		:: e > EPOCHS -> goto dead
		:: else
		fi
	}
#ifdef GC_LOOK_AGAIN
	/* Is it really the highest?  This listing is not an old one. */
	atomic {
		d_step {
			m = e;
			do
			:: m < EPOCHS -> m++; may = may || claim[m] != 0
			:: else -> break
			od;
			m = 0
		}
		if
		:: may -> goto dead
		:: else
		fi
	}
#endif

#ifdef STALE_LISTING
	list_segments(); /* into a cache that serves it for a while */
#endif
#ifdef READ_BEFORE_SEAL
	goto list;
seal:
#endif
	/* 2. Seal everything below, durably: whether somebody else has done so
	 * makes no difference. */
#ifdef SEAL_FROM_SEALED
	/* Down to the first that is sealed, and up again. */
	m = e;
	do
	:: m > 1 && !sealed[claim[m - 1]] -> m--
	:: m <= 1 || sealed[claim[m - 1]] -> break
	od;
#ifdef SEAL_IT_AGAIN
	m = (m > 1 -> m - 1 : m);
#endif
	do
	:: m < e ->
		sealed[claim[m]] = true;
		atomic {
			if
			:: !sealed[claim[m]] -> goto dead
			:: else
			fi;
			seal_durable[claim[m]] = true
		}
		m++
	:: m >= e -> break
	od;
#else
	m = e - 1;
	do
	:: m == 0 -> break
#ifdef SEAL_FROM_BEGUN
	/* Whoever has a segment had sealed everything below. */
	:: m > 0 && first[m + 1] && m + 1 < e -> m = 0; break
	:: m > 0 && !(first[m + 1] && m + 1 < e) ->
#else
	:: m > 0 ->
#endif
#ifdef SEAL_LISTED
		if
		:: (claims & (1 << m)) == 0 -> goto passed
		:: else
		fi;
#endif
#ifdef TRUST_OTHERS_SEAL
		if
		:: sealed[claim[m]] -> goto passed
		:: else
		fi;
#endif
		sealed[claim[m]] = true;
#ifndef SEAL_NOT_DURABLE
		/* A restart in between fails the sync of our own write. */
		atomic {
			if
			:: !sealed[claim[m]] -> goto dead
			:: else
			fi;
			seal_durable[claim[m]] = true
		}
#endif
#if defined(SEAL_LISTED) || defined(TRUST_OTHERS_SEAL)
passed:
#endif
		m--
	od;
#endif
#ifdef READ_BEFORE_SEAL
	m = names1;
	goto start;
list:
#endif

	/* 3. List the segments, then read: down to the newest epoch that has
	 * begun, and of that one all that is there without a gap.  It is
	 * synced before anything is built on it. */
#ifndef STALE_LISTING
	list_segments();
#endif
	m = e - 1;
	do
	:: m > 0 && !((names1 & (1 << m)) && (visible[first[m]] & 1)) -> m--
	:: m == 0 || ((names1 & (1 << m)) && (visible[first[m]] & 1)) -> break
	od;
#ifdef SYNC_BEFORE_READ
	durable[first[m]] = durable[first[m]] | visible[first[m]];
#endif
	atomic {
		n = SEEN(m, first[m]) & ((names2 & (1 << m)) -> 7 : 3);
		n = PREFIX(n);
#if !defined(READ_NOT_SYNCED) && !defined(SYNC_BEFORE_READ)
		durable[first[m]] = durable[first[m]] | visible[first[m]];
#endif
#ifdef READ_BEFORE_SEAL
		names1 = m;
#else
		names1 = 0;
#endif
		names2 = 0
	}
#ifdef READ_BEFORE_SEAL
	goto seal;
start:
#endif

	/* 4. EPOCH-START, in a segment with my number. */
	atomic {
		parent[me] = m;
		cut[me] = n;
		first[e] = me;
		second[e] = 0;
		issued[me] = 1;
		next = 1;
		m = 0; n = 0; names1 = 0
	}

	/* 5. Lead. */
	do
	:: seen >= 1 && next < FRAMES && next - seen < 2 ->
#ifdef CHECK_BEFORE_DURABLE
		if
		:: sealed[me] -> goto dead
		:: else
		fi;
#endif
		d_step {
			if
			:: next == 2 -> second[e] = me; vouched[me] = seen
			:: else
			fi;
			issued[me] = issued[me] | (1 << next);
			next++
		}
	:: d_step { PREFIX(durable[me]) > seen -> n = PREFIX(durable[me]) };
		/* One look for all that is durable by now. */
#ifdef NO_CHECK
		may = true;
#else
#ifdef CHECK_BEFORE_DURABLE
		may = seen >= 1 || !sealed[me];
#else
#ifdef CACHED_CHECK
		d_step { may = cached; cached = !sealed[me] };
#else
		may = !sealed[me];
#endif
#endif
#endif
		if
		:: !may -> goto dead
		:: else
		fi;
		d_step {
#ifdef STALE_CHECK
			n = PREFIX(durable[me]);
#endif
			seen = n;
			confirmed[me] = n;
			n = 0;
			may = false
		}
#ifdef GC_CLAIMS
	:: seen >= 1 && m + 1 < e ->
		/* Claims below mine are sealed: away with them? */
		m++;
		claim[m] = 0
#endif
	:: seen == FRAMES -> break
	od;
dead:	skip
}

#ifdef ALONE
/* All stop; one more comes. */
active proctype last()
{
	atomic {
		frozen = true;
		alone = run broker(LIVES)
	}
	timeout;
	assert(confirmed[LIVES] >= 1)
}
#endif

init {
	byte i = 0;

	atomic {
		do
		:: i < BROKERS -> i++; run broker(i)
		:: else -> break
		od
	}
}
