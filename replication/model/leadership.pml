/* replication/model/leadership.pml: seal, then read; write, then check.
 *
 * Brokers on one shared directory.  There are no locks here at all: whoever
 * wants to may take over at any time, as if every lock had been doubled, lost
 * or stolen.  What must hold nevertheless:
 *
 *   1. every confirmed frame is in the history of every epoch that leads,
 *      before or after it is confirmed (so there is one history);
 *   2. what a leader's history needs is still on the disk: frames, or a
 *      checkpoint that covers them, in the segments or in extents;
 *   3. somebody can always take over.
 *
 * A pause is a process that takes no step for a while: spin's interleaving has
 * all of them, at every step.  A crash ends a process between any two steps.
 * What it had issued may still become durable after it, and after others have
 * read.  Frames are pipelined: up to two in flight, durable in any order, one
 * check for all that were durable before the check was sent.
 *
 * The storage is what the protocol relies on: creation is exclusive, a size
 * asked for is the size at the storage at some moment between question and
 * answer, a read returns what is durable.  Mutants take one of these, or one
 * step of the protocol, away: see `run`. */

#ifndef BROKERS
#define BROKERS 2
#endif
#ifndef EPOCHS
#define EPOCHS 3
#endif
/* Of one epoch: 0 is EPOCH-START, 1 a publication, 2 the record of a
 * checkpoint, which also says that the extents are in place. */
#define FRAMES 3
#define NONE 7

/* ---- the storage; index 0 is the time before ---- */
bool claimed[EPOCHS + 1];
bool sealed[EPOCHS + 1];
byte durable[EPOCHS + 1];  /* bits: frames */
byte issued[EPOCHS + 1];   /* bits: frames handed to the storage */
byte parent[EPOCHS + 1];   /* in EPOCH-START */
byte cut[EPOCHS + 1];	   /* in EPOCH-START: frames of the parent */
/* A checkpoint's file is whole before its record is issued.  It holds all
 * that was committed when it was written: it stands for every frame of the
 * epochs below, and the first two of its own. */
bool file[EPOCHS + 1];
bool dropped[EPOCHS + 1];  /* the segments of this epoch are gone */

/* ---- what is known outside ---- */
byte confirmed[EPOCHS + 1]; /* bits: frames whose senders were told */
bool led[EPOCHS + 1];
byte newest;		    /* the highest epoch that has led */

/* Frames of epoch m in the history that ends before epoch e: NONE when m is
 * not in it at all. */
inline frames_in_history(leader, below, answer)
{
	walk = leader;
	answer = NONE;
	do
	:: walk != 0 && parent[walk] == below -> answer = cut[walk]; break
	:: walk != 0 && parent[walk] != below -> walk = parent[walk]
	:: walk == 0 -> break
	od
}

/* Rules 1 and 2 for one epoch that leads. */
inline look_at(who)
{
	m = 1;
	do
	:: m < who ->
		frames_in_history(who, m, n);
		if
		:: confirmed[m] == 0
		:: confirmed[m] != 0 ->
			assert(n != NONE);
			assert(confirmed[m] >> n == 0);
			/* The bytes: in its segments, or in a checkpoint of an
			 * epoch of this history that covers it. */
			if
			:: !dropped[m]
			:: dropped[m] ->
				k = m;
				covered = false;
				do
				:: k <= who ->
					frames_in_history(who, k, n);
					if
					:: file[k] && (k == who || n != NONE) ->
						covered = true
					:: else
					fi;
					k++
				:: else -> break
				od;
				assert(covered)
			fi
		fi;
		m++
	:: else -> break
	od
}

/* The storage finishes what was handed to it, whenever it likes. */
active proctype storage()
{
	byte e = 1, f;

end:	do
	:: atomic {
		/* any issued frame that is not durable yet */
		e = 1;
		do
		:: e < EPOCHS -> e++
		:: break
		od;
		f = 0;
		do
		:: f < FRAMES - 1 -> f++
		:: break
		od;
		if
		:: (issued[e] & (1 << f)) && !(durable[e] & (1 << f)) ->
			durable[e] = durable[e] | (1 << f)
		:: else
		fi;
		e = 1; f = 0
	   }
	od
}

/* One life: from wanting to lead to death. */
proctype broker()
{
	byte e = 0;	 /* my epoch */
	byte m = 0, n = 0, k = 0, walk = 0;
	byte above = 0;	 /* the epoch that was read */
	byte read = 0;	 /* its frames */
	byte next = 0;	 /* frame to issue */
	byte seen = 0;	 /* durable when the check was sent: frames */
	bool covered = false, may = false, cleaned = false;

	/* 1. Claim the next epoch: O_CREAT|O_EXCL. */
	atomic {
		e = 1;
		do
		:: e <= EPOCHS && claimed[e] -> e++
		:: else -> break
		od;
		if
		:: e > EPOCHS -> goto dead
		:: else -> claimed[e] = true
		fi
	}

	/* 2. Seal everything below. */
#ifndef READ_BEFORE_SEAL
	m = e;
	do
	:: m > 1 -> m--; sealed[m] = true
	:: else -> break
	od;
#endif

	/* 3. Read, from the newest epoch down to one that has begun. */
	m = e - 1;
	do
	:: m > 0 && (durable[m] & 1) && !dropped[m] -> break
	:: m > 0 && !((durable[m] & 1) && !dropped[m]) -> m--
	:: m == 0 -> break
	od;
	above = m;
	atomic {
		read = 0;
		if
		:: above > 0 ->
			do
			:: read < FRAMES && (durable[above] & (1 << read)) ->
				read++
			:: else -> break
			od
		:: else
		fi;
		m = 0
	}
#ifdef READ_BEFORE_SEAL
	m = e;
	do
	:: m > 1 -> m--; sealed[m] = true
	:: else -> break
	od;
#endif

	/* 4. EPOCH-START is the first frame; the next ones may be on their way
	 * before it is durable. */
	atomic {
		parent[e] = above;
		cut[e] = read;
		issued[e] = 1;
		next = 1;
		m = 0
	}

	/* 5. Lead. */
	do
	:: next < FRAMES && next - seen < 2 ->
		/* The checkpoint is written from what is committed; its file
		 * is whole before the record goes. */
		if
		:: next == 2 && seen < 2 -> skip /* nothing to write yet */
		:: next == 2 && seen >= 2 ->
			file[e] = true;
			issued[e] = issued[e] | (1 << next);
			next++
		:: next < 2 ->
			issued[e] = issued[e] | (1 << next);
			next++
		fi
	:: seen < next ->
		/* One check for all that is durable now. */
		atomic {
			n = 0;
			do
			:: n < next && (durable[e] & (1 << n)) -> n++
			:: else -> break
			od;
#ifdef CHECK_BEFORE_DURABLE
			n = next;
#endif
			if
			:: n <= seen -> n = 0
			:: else
			fi
		}
		if
		:: n == 0 -> skip
		:: else ->
#ifdef STALE_CHECK
			/* The size comes from a cache that may be as old as
			 * the claim itself. */
			if
			:: may = true
			:: may = !sealed[e]
			fi;
#else
#ifdef NO_CHECK
			may = true;
#else
			may = !sealed[e];
#endif
#endif
			if
			:: !may -> goto dead
			:: else
			fi;
			atomic {
#ifdef CHECK_BEFORE_DURABLE
				/* It is confirmed only when it is durable, but
				 * the look was before that. */
				(durable[e] & ((1 << n) - 1)) == (1 << n) - 1 ->
#endif
				seen = n;
				confirmed[e] = confirmed[e] | ((1 << n) - 1);
				n = 0;
				may = false;
				if
				:: !led[e] ->
					led[e] = true;
					if
					:: e > newest -> newest = e
					:: else
					fi
				:: else
				fi;
				/* Rule 1, both ways round. */
				k = e;
				do
				:: k <= EPOCHS ->
					if
					:: led[k] -> walk = k; covered = true
					:: else -> covered = false
					fi;
					if
					:: covered && k > e ->
						frames_in_history(k, e, n);
						assert(n != NONE);
						assert(confirmed[e] >> n == 0)
					:: else
					fi;
					k++
				:: else -> break
				od;
				look_at(e);
				m = 0; n = 0; k = 0; walk = 0; covered = false
			}
		fi
	:: led[e] && !cleaned ->
		/* Checkpoints that no record in this history names were never
		 * committed: away with them, after a check. */
		if
		:: sealed[e] -> goto dead
		:: else
		fi;
		atomic {
			cleaned = true;
			m = 1;
			do
			:: m < e ->
				frames_in_history(e, m, n);
				if
				:: n != FRAMES -> file[m] = false
				:: else
				fi;
				m++
			:: else -> break
			od;
			look_at(newest);
			m = 0; n = 0; k = 0; walk = 0; covered = false
		}
	:: seen == FRAMES && file[e] && above != 0 && !dropped[above] ->
		/* The record of the checkpoint is committed: old segments may
		 * go, after a check. */
		goto remove
#ifdef DELETE_WITHOUT_CHECK
	:: file[e] && next == FRAMES && above != 0 && !dropped[above] ->
		goto remove
#endif
	:: goto dead /* crash, anywhere */
	od;

remove:
#ifndef DELETE_WITHOUT_CHECK
	if
	:: sealed[e] -> goto dead
	:: else
	fi;
#endif
	/* Paused here for as long as it takes a successor to come and go. */
	atomic {
		dropped[above] = true;
		/* Rule 2, for everybody who leads. */
		if
		:: newest != 0 -> look_at(newest)
		:: else
		fi;
		m = 0; n = 0; k = 0; walk = 0; covered = false
	}
dead:	skip
}

init {
	byte i = 0;

	atomic {
		do
		:: i < BROKERS -> run broker(); i++
		:: else -> break
		od
	}
}
