/* replication/model/deletion.pml: what may be deleted, and when.
 *
 * The leadership is that of leadership.pml, in fewer steps, with one life for
 * each epoch.  On top of it: one message M, confirmed long ago, whose body lies
 * in segment 0.  Epoch 1 is over and has left a checkpoint.  Leaders may
 *
 *   - hand it to a consumer and record the acknowledgement (ACK);
 *   - copy it to an extent file of theirs and record that (MOVE), also out of
 *     the extent file of somebody before;
 *   - write a checkpoint of what is committed, and record it (CHECKPOINT);
 *   - remove what is not needed any more: extent files in which nothing is, or
 *     that no record names, checkpoints but the last two, segments outside the
 *     history, and those that end before the older of the two checkpoints and
 *     hold nothing that is needed.
 *
 * Removing is as wild as can be: one look at the claim, and from then on for as
 * long as the process lives, whenever and in whatever order, sealed or not, it
 * removes what the rules allow by what *it* knows to be committed.  (So the
 * look's age does not matter; the rules do.  NO_LOOK shows that even the look
 * does not.  The broker makes it all the same: it ends a zombie early.)
 *
 * What must hold in every state, of what a lone candidate would find in it,
 * starting from the newest checkpoint, and from the one before as if the
 * newest had rotted, or from the whole journal where there are fewer:
 *
 *   1. everything that it replays is there, and reaches every cut;
 *   2. M is where it says, unless its acknowledgement is in the history;
 *   3. M is not there any more once the acknowledgement was confirmed;
 *   4. every confirmed frame is in the history. */

/* The first of them is over when this begins. */
#ifndef EPOCHS
#define EPOCHS 3
#endif
#ifndef FRAMES
#define FRAMES 4 /* of an epoch; 0 is EPOCH-START */
#endif

/* Kinds of records. */
#define ACK 1
#define MOVE 2
#define CHECKPOINT 3
/* Places of M: 0 is segment 0, e the extent file of epoch e. */
#define GONE 14
/* Extent files. */
#define HALF 1
#define WHOLE 2

#define BIT(i) (1 << (i))
#define PREFIX(mask) \
	((mask & 1) == 0 -> 0 : ((mask & 2) == 0 -> 1 : \
	 ((mask & 4) == 0 -> 2 : ((mask & 8) == 0 -> 3 : 4))))

/* ---- the storage; of segments, index 0 is what was long ago ---- */
byte claims;		       /* epochs 1..claims */
bool sealed[EPOCHS + 1];
byte issued[EPOCHS + 1];       /* bits: frames */
byte durable[EPOCHS + 1];
byte kind[(EPOCHS + 1) * FRAMES];
byte parent[EPOCHS + 1];
byte cut[EPOCHS + 1];
bool dropped[EPOCHS + 1];      /* segments */
byte extent[EPOCHS + 1];       /* of one epoch: at most one */
bool file[EPOCHS + 1];	       /* checkpoint; of one epoch: at most one */
byte file_place[EPOCHS + 1];   /* in it: where M is */
byte file_at[EPOCHS + 1];      /* in it: frames of its own epoch */

/* ---- what is known outside ---- */
byte confirmed[EPOCHS + 1];
bool told;		       /* M's acknowledgement was confirmed */

/* ---- reading, for candidates and for the observer ---- */

hidden byte r_take[EPOCHS + 1]; /* frames of each epoch in the history */
hidden byte r_epoch, r_child, r_from, r_frame, r_end, r_place, r_i;
hidden byte r_fine;

/* The history below `below`: r_take, r_end.  A parent's frames are those that
 * its child names, and they must be there. */
inline read_history(below)
{
	r_i = 0;
	do
	:: r_i <= EPOCHS -> r_take[r_i] = 0; r_i++
	:: else -> break
	od;
	r_epoch = below - 1;
	do
	:: r_epoch > 0 && (dropped[r_epoch] || !(durable[r_epoch] & 1)) ->
		r_epoch--
	:: else -> break
	od;
	r_end = r_epoch;
	r_child = 0;
	do
	:: r_epoch > 0 ->
		r_take[r_epoch] = PREFIX(durable[r_epoch]);
		if
		:: r_child != 0 ->
			r_fine = r_fine && r_take[r_epoch] >= cut[r_child];
			r_take[r_epoch] = cut[r_child]
		:: else
		fi;
		r_child = r_epoch;
		r_epoch = parent[r_epoch]
	:: else -> break
	od;
	r_epoch = 0
}

/* M's place after that history, starting from checkpoint `from`, or from the
 * beginning with 0: r_place. */
inline replay(from)
{
	r_from = from;
	r_place = (r_from -> file_place[r_from] : 0);
	r_frame = (r_from -> file_at[r_from] : 0);
	r_fine = r_fine && r_frame <= r_take[r_from] && (r_from || !dropped[0]);
	do
	:: r_from <= r_end ->
		if
		:: r_take[r_from] ->
			r_fine = r_fine && !dropped[r_from];
			do
			:: r_frame < r_take[r_from] ->
				if
				:: kind[r_from * FRAMES + r_frame] == ACK ->
					r_place = GONE
				:: kind[r_from * FRAMES + r_frame] == MOVE &&
				   r_place != GONE ->
					r_place = r_from
				:: else
				fi;
				r_frame++
			:: else -> break
			od
		:: else
		fi;
		r_from++;
		r_frame = 0
	:: else -> break
	od;
	r_from = 0; r_frame = 0
}

#define THERE(p) \
	(p == GONE || (p == 0 && !dropped[0]) || \
	 (p > 0 && p <= EPOCHS && extent[p] == WHOLE))

/* The newest checkpoint below `below`, 0 when there is none: r_i. */
inline newest_file(below)
{
	r_i = below;
	do
	:: r_i > 0 ->
		r_i--;
		if
		:: file[r_i] -> break
		:: else
		fi
	:: else -> break
	od
}

inline judge()
{
	assert(r_fine);
	assert(THERE(r_place));
	assert(!told || r_place == GONE)
}

inline forget_reading()
{
	r_i = 0;
	do
	:: r_i <= EPOCHS -> r_take[r_i] = 0; r_i++
	:: else -> break
	od;
	r_i = 0; r_end = 0; r_child = 0; r_place = 0; r_fine = false
}

proctype observer()
{
	byte newest = 0;

end:	do
	:: d_step {
		r_fine = true;
		read_history(EPOCHS + 1);
		r_i = 1;
		do
		:: r_i <= EPOCHS ->
			assert(confirmed[r_i] <= r_take[r_i]);
			r_i++
		:: else -> break
		od;
		newest_file(EPOCHS + 1);
		newest = r_i;
		replay(newest);
		judge();
		/* The newest is rotten: the one before it, or everything. */
		if
		:: newest ->
			newest_file(newest);
			newest = r_i;
			replay(newest);
			judge()
		:: else
		fi;
		newest = 0;
		forget_reading()
	   }
	od
}

#define STORE(e, f) \
	:: d_step { (issued[e] & BIT(f)) && !(durable[e] & BIT(f)) -> \
		durable[e] = durable[e] | BIT(f) }
#define STORE_EPOCH(e) STORE(e, 0) STORE(e, 1) STORE(e, 2) STORE(e, 3)

proctype storage()
{
end:	do
	STORE_EPOCH(2)
#if EPOCHS >= 3
	STORE_EPOCH(3)
#endif
#if EPOCHS >= 4
	STORE_EPOCH(4)
#endif
	od
}

/* ---- one life ---- */

#define ISSUE(what) \
	kind[e * FRAMES + next] = what; \
	issued[e] = issued[e] | BIT(next); \
	next++

#define CAN_ISSUE (seen >= 1 && next < FRAMES && next - seen < 2)

/* By name, and never above my own epoch: what is there is its owner's. */
#ifdef REMOVE_NEWER
#define MINE(j) (j != e)
#else
#define MINE(j) (j < e)
#endif
/* Of other epochs whatever is not in use is dead or a stray; my own is dead
 * when its record is committed and M is not in it. */
#define DEAD_EXTENT(j) \
	(extent[j] && j != place && (MINE(j) || (j == e && moved)))
#define OLD_FILE(j) \
	(file[j] && j != newest && j != older && (MINE(j) || j == e))
#ifdef ONE_CHECKPOINT
#define COVERED(j) (newest && j < newest)
#else
#define COVERED(j) (older && j < older)
#endif
#define OLD_SEGMENT(j) (!dropped[j] && COVERED(j) && (j || place != 0))
#define REMOVE(j) \
	:: d_step { may_sweep && DEAD_EXTENT(j) -> extent[j] = 0 } \
	:: d_step { may_sweep && (others & BIT(j)) -> dropped[j] = true; \
		    others = others & ~BIT(j) } \
	:: d_step { may_remove && OLD_FILE(j) -> file[j] = false } \
	:: d_step { may_remove && OLD_SEGMENT(j) -> dropped[j] = true }

/* What is applied: a prefix, and what has come of M by it. */
inline apply(upto)
{
	do
	:: seen < upto ->
		if
		:: kind[e * FRAMES + seen] == ACK -> place = GONE
		:: kind[e * FRAMES + seen] == MOVE ->
			moved = true;
			if
			:: place != GONE -> place = e
			:: else
			fi
		:: kind[e * FRAMES + seen] == CHECKPOINT ->
			older = newest;
			newest = e
		:: else
		fi;
		seen++
	:: else -> break
	od
}

proctype broker(byte e)
{
	byte m = 0, n = 0;
	byte next = 0;	 /* frame to issue */
	byte seen = 0;	 /* frames committed */
	byte place = 0;	 /* of M, by what is committed */
	byte others = 0; /* bits: epochs outside of it */
	byte newest = 0, older = 0; /* checkpoints that are kept */
	bool acked = false;
	bool copied = false, asked = false, moved = false;
	bool written = false, recorded = false;
	bool may_sweep = false; /* the look has been made: strays, outside */
	bool may_remove = false; /* and what a checkpoint has made needless */

	/* 1. Claim. */
	d_step { claims == e - 1 -> claims++ }
	/* 2. Seal. */
	m = e - 1;
	do
	:: m > 0 -> sealed[m] = true; m--
	:: else -> break
	od;
	/* 3. Which checkpoints are there?  Then replay from the newest. */
	atomic {
		newest_file(e);
		newest = r_i;
		newest_file(newest);
		older = (newest -> r_i : 0);
		r_i = 0
	}
	atomic {
		d_step {
			r_fine = true;
			read_history(e);
			replay(newest);
			place = r_place;
			m = 1;
			do
			:: m < e ->
				if
				:: !r_take[m] && issued[m] ->
					others = others | BIT(m)
				:: else
				fi;
				m++
			:: else -> break
			od;
			parent[e] = r_end;
			cut[e] = r_take[r_end];
			m = r_fine;
			n = r_place;
			forget_reading()
		}
		/* A zombie may be removing what I was about to read: that is an
		 * error, and another life may try again. */
		if
		:: !m || !THERE(n) -> goto dead
		:: else -> m = 0; n = 0
		fi
	}
#ifdef SWEEP_BEFORE_START
	if
	:: sealed[e] -> goto dead
	:: else
	fi;
	may_sweep = true;
#endif
	/* 4. EPOCH-START. */
	d_step { issued[e] = 1; next = 1 }

	/* 5. Lead. */
	do
	/* Records. */
	:: d_step { CAN_ISSUE && !acked && place != GONE ->
		acked = true; ISSUE(ACK) }
	:: d_step { seen >= 1 && !copied && place != GONE && THERE(place) ->
		copied = true;
#ifdef RECORD_BEFORE_FILE
		extent[e] = HALF }
	:: d_step { asked && extent[e] == HALF -> extent[e] = WHOLE }
#else
		extent[e] = WHOLE }
#endif
	:: d_step { CAN_ISSUE && copied && !asked ->
		asked = true; ISSUE(MOVE) }
	:: d_step { seen >= 1 && !written ->
		written = true;
		file[e] = true;
		file_place[e] = place;
		file_at[e] = seen }
	:: d_step { CAN_ISSUE && written && !recorded ->
		recorded = true; ISSUE(CHECKPOINT) }
#ifdef REMOVE_ON_NOSPC
	/* Its name is there, but the sync of the directory says that the disk
	 * is full: so it is not recorded, and what is not kept may go. */
	:: atomic { written && !recorded ->
		if
		:: sealed[e] -> goto dead
		:: else -> recorded = true; may_remove = true
		fi
	   }
#endif

	/* Commit: durable, look, apply and tell. */
	:: d_step { PREFIX(durable[e]) > confirmed[e] ->
		n = PREFIX(durable[e]) };
		if
		:: sealed[e] -> goto dead
		:: else
		fi;
		d_step {
			apply(n);
			confirmed[e] = n;
			m = 0;
			do
			:: m < n ->
				told = told || kind[e * FRAMES + m] == ACK;
				m++
			:: else -> break
			od;
			n = 0; m = 0
		}
#ifdef DELETE_UNCOMMITTED
	/* What was handed to the storage is taken for done. */
	:: d_step { seen >= 1 && next > seen -> apply(next); n = 0 }
#endif
#ifdef DELETE_WITHOUT_CHECK
	/* What is durable is taken for done. */
	:: d_step { seen >= 1 && PREFIX(durable[e]) > seen ->
		n = PREFIX(durable[e]); apply(n); n = 0 }
#endif

	/* The look. */
	:: atomic { seen >= 1 && (!may_sweep || (!may_remove && newest == e)) ->
#ifndef NO_LOOK
		if
		:: sealed[e] -> goto dead
		:: else
		fi;
#endif
		may_sweep = true;
		may_remove = newest == e
	   }
	REMOVE(0)
	REMOVE(1)
	REMOVE(2)
#if EPOCHS >= 3
	REMOVE(3)
#endif
#if EPOCHS >= 4
	REMOVE(4)
#endif
	od;
dead:	skip
}

init {
	byte i = 1;

	atomic {
		/* Epoch 1 has left a checkpoint; its record is committed. */
		claims = 1;
		issued[1] = 3;
		durable[1] = 3;
		kind[FRAMES + 1] = CHECKPOINT;
		file[1] = true;
		file_at[1] = 1;
		confirmed[1] = 2;
		run observer();
		run storage();
		do
		:: i < EPOCHS -> i++; run broker(i)
		:: else -> break
		od;
		i = 0
	}
}
