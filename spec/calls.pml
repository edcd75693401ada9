/* calls.pml - calls and their replies (docs/protocol.md, section 13; docs/decisions/0034-calls.md).
 *
 * C calls of one client over up to G connections, each of which may break at any moment. The last call may be
 * sent again (AtLeastOnce), the others may not. A connection that was left still delivers: its calls may be
 * served late, and its replies come late. NL callers may leave at any moment. A caller and the loop of the client
 * share the word state[c] and the slot res[c], and nothing else: marking a call and writing it are two steps.
 * The last connection does not break.
 *
 * Checked: a call has one outcome, and none is without one when nothing moves any more; a reply is that of the
 * call, on the connection that is in use; a call that is Unsent is never served; one that may not be sent again is
 * served once at most; nothing is sent of a call that has an outcome.
 *
 * Mutations, each must FAIL:
 *  -DLATEMARK    a call is marked after it was written
 *  -DNOSKIP      a call whose caller has left is sent
 *  -DNUMBERAGAIN numbers begin again on each connection
 *  -DKEEPOPEN    a call that is sent again still waits for the reply of the connection before
 *  -DSENDAGAIN   every call that was lost is sent again
 *  -DLOSTUNSENT  a call that was lost with its connection is Unsent
 *  -DNOOUTCOME   a call that was lost with its connection has no outcome
 *  -DENDANDAGAIN a call that is sent again has an outcome already
 */
#ifndef C
#define C 2
#endif
#ifndef G
#define G 2
#endif
#ifndef NL
#define NL 1
#endif
#define AGAIN(c) ((c) == C-1)

#define WAITING 0   /* state: it was never handed to the network */
#define SENT    1   /* it may have left */
#define LEFT    2   /* its caller waits no longer */

#define REPLY   1   /* outcomes; 0: none */
#define UNSENT  2
#define UNKNOWN 3

chan up[G+1] = [C] of { byte, byte };   /* number, call */
chan dn[G+1] = [C] of { byte, byte };
bool dead[G+1];

byte state[C], res[C], out[C], served[C];
bool queued[C];
byte num[C];              /* on the connection in use; 0: not sent there */
byte last = 0, ck = 1, nl = NL;

byte pend = 0;            /* 1 + the call that is marked and not written yet */

inline result(c, r) { if :: res[c] == 0 -> res[c] = r :: else fi }

proctype Caller(byte c) {
    byte was;
    if
    :: atomic { res[c] != 0 -> assert(out[c] == 0); out[c] = res[c] }
    :: atomic { nl > 0 && res[c] == 0 -> nl--; was = state[c]; state[c] = LEFT };
       atomic { assert(out[c] == 0);
         if :: res[c] != 0 -> out[c] = res[c]
            :: res[c] == 0 && was == WAITING -> out[c] = UNSENT
            :: res[c] == 0 && was != WAITING -> out[c] = UNKNOWN
         fi;
         was = 0 }
    fi;
    assert(out[c] != UNSENT || served[c] == 0)
}

/* what the loop does with one call */
proctype Of(byte c) {
end: do
#ifdef NOSKIP
    :: atomic { pend == 0 && queued[c] ->
#else
    :: atomic { queued[c] && state[c] == LEFT -> queued[c] = false }
    :: atomic { pend == 0 && queued[c] && state[c] != LEFT ->
#endif
         assert(res[c] == 0);
         queued[c] = false; last++; num[c] = last; pend = c + 1;
#ifndef LATEMARK
         state[c] = SENT
#endif
       }
    :: atomic { pend == c + 1 -> up[ck]!num[c],c; pend = 0 }
#ifdef LATEMARK
    :: atomic { pend != c + 1 && num[c] != 0 && state[c] == WAITING -> state[c] = SENT }
#endif
    :: atomic { state[c] == LEFT && num[c] != 0 && pend != c + 1 -> num[c] = 0 }
    od
}

active proctype Loop() {
    byte c, n, x, g;
end: do
    :: atomic { ck < G ->                                  /* the connection is lost */
         c = 0; do
         :: c < C ->
            if
            :: num[c] == 0 -> skip
            :: num[c] != 0 ->
#ifdef SENDAGAIN
               if :: state[c] != LEFT
#else
               if :: AGAIN(c) && state[c] != LEFT
#endif
                     -> queued[c] = true;
#ifdef ENDANDAGAIN
                     result(c, UNKNOWN);
#endif
#ifndef KEEPOPEN
                     num[c] = 0
#endif
                  :: else -> num[c] = 0;
#ifdef LOSTUNSENT
                     result(c, UNSENT)
#else
#ifndef NOOUTCOME
                     result(c, UNKNOWN)
#endif
#endif
               fi
            fi; c++
         :: else -> break
         od; c = 0; pend = 0;
#ifdef NUMBERAGAIN
         last = 0;
#endif
         ck++ }
    :: atomic { dn[1]?[n,x] -> dn[1]?n,x; g = 1; goto reply }
    :: atomic { dn[G]?[n,x] -> dn[G]?n,x; g = G; goto reply }
    od;
reply:                                                     /* on whatever connection it comes */
    atomic { c = 0; do
         :: c < C ->
            if :: num[c] == n -> assert(c == x && g == ck); result(c, REPLY); num[c] = 0 :: else fi; c++
         :: else -> break
         od; c = 0; n = 0; x = 0; g = 0 };
    goto end
}

proctype Handler(byte k) {
    byte n, c;
end: do
    :: atomic { dead[k] -> break }
    :: atomic { !dead[k] && k < G && k <= ck -> dead[k] = true }
    :: atomic { !dead[k] && up[k]?[n,c] -> up[k]?n,c; served[c]++;
         assert(out[c] != UNSENT);
         assert(AGAIN(c) || served[c] == 1);
         dn[k]!n,c; n = 0; c = 0 }
    od
}

init {
    byte i = 0;
    atomic {
        do :: i < C -> queued[i] = true; run Caller(i); run Of(i); i++ :: else -> break od;
        i = 1;
        do :: i <= G -> run Handler(i); i++ :: else -> break od;
        i = 0 }
}

active proctype Final() {
    byte c = 0;
end: timeout -> atomic {
        do :: c < C -> assert(out[c] != 0);
              assert(out[c] != UNSENT || served[c] == 0);
              assert(out[c] != REPLY || served[c] != 0); c++
           :: else -> break
        od }
}
