/* The table of detached sessions of the reference server (server/session.go): one session, G connections that bind it
 * and leave, and a newcomer to a full table that drops the session that is listed. Each step under one lock is atomic;
 * the locks of the session and of the table are never held together.
 *
 * Checked: when nothing moves any more, a session that is detached and not dropped is listed, so that the next newcomer
 * can drop it; a session with an owner is never dropped.
 *
 * LATEUNPARK: bind takes the session from the list after it has become the owner.
 * BLINDDROP:  the newcomer drops what is listed without a look at the owner.
 */
#ifndef G
#define G 3
#endif
#ifndef D
#define D 2 /* newcomers */
#endif

byte owner = 0;     /* 0: detached */
bool listed = true; /* the session was detached before */
bool gone = false;
byte left = 0;      /* processes that have ended */

proctype connection(byte me) {
	bool bound = false, parks = false;
	atomic { /* fence */
		if
		:: !gone -> owner = me; bound = true
		:: else
		fi
	}
#ifdef LATEUNPARK
	if
	:: bound -> atomic { listed = false }
	:: else
	fi;
#endif
	atomic { /* leave; a superseded connection has nothing to leave */
		if
		:: bound && owner == me -> assert(!gone); owner = 0; parks = true
		:: else
		fi
	}
	atomic { /* park, if the table still has the session */
		if
		:: parks && !gone -> listed = true
		:: else
		fi;
		left++
	}
}

proctype newcomer() {
	bool popped = false;
	atomic { /* create: take the first of the list */
		if
		:: listed -> listed = false; popped = true
		:: else
		fi
	}
	atomic { /* drop */
		if
#ifdef BLINDDROP
		:: popped -> gone = true
#else
		:: popped && owner == 0 -> gone = true
#endif
		:: else
		fi;
		left++
	}
}

init {
	byte i;
	atomic {
		for (i : 1 .. G) { run connection(i) }
		for (i : 1 .. D) { run newcomer() }
	}
	left == G + D;
	assert(owner == 0);
	assert(gone || listed)
}
