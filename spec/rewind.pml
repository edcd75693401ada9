/* rewind.pml - a session in a store that goes back to an earlier state (docs/protocol.md, section 4).
 *
 * One client sends N messages over up to G connections, each of which may break at any moment.
 * Each connection ends at a server of its own, which keeps a copy of the session's record and
 * commits with compare-and-set on its version. A connection that the client has left may still
 * be handled. RW times the store goes back to a state that it had before: record, log and ids
 * together. Messages are accepted one by one and in order; uplink.pml has the rest.
 * The last connection does not break, and the store does not go back once it is in use.
 *
 * Checked: no message is in the log twice; what is acknowledged is in the log, or was lost with
 * it; the client is never refused for good; when nothing moves any more, every message is
 * acknowledged.
 *
 * Mutations, each must FAIL:
 *  -DWRONGKEY      a wrong key is refused for good, also if the connection number is newer
 *  -DOLDRECORD     a connection that finds its record older or gone says that it was superseded
 *  -DNOIDS         a new session does not look at the ids of the one before
 *  -DPARTS         record and ids go back, and the log does not
 *  -DVERSIONAGAIN  versions of records are used again after the store went back
 */
#ifndef N
#define N 2
#endif
#ifndef G
#define G 3
#endif
#ifndef RW
#define RW 1
#endif
#define bit(x) (1 << (x))

mtype = { HELLO, MSG, WELCOME, ACK, SUPERSEDED, UNAVAILABLE, FORBIDDEN };
chan up[G+1] = [2] of { mtype, byte, byte, byte, byte };  /* HELLO session key cn lo | MSG seq id 0 0 */
chan dn[G+1] = [2] of { mtype, byte, byte, byte };        /* WELCOME session key ack | ACK ack 0 0 | a close */
bool dead[G+1];

typedef record { byte cn, key, prev, ack, ver };                 /* ver 0: there is none */
record r[G+1];                                                   /* by session: each HELLO begins one at most */
byte log = 0, ids = 0;
record o[G+1];                                                   /* the state before */
byte olog, oids;
bool kept;
byte lost = 0, sessions = 0, keys = 0, versions = 0, nrw = RW;

byte ck = 0, st = 0, cn = 0, ses = 0, ckey = 0;                  /* client */
byte base = 1, off = 0, p = 1;                                   /* not settled, id of seq 0, sent next */

inline settle(ack) {
    do :: base <= off + ack -> assert((log | lost) & bit(base)); base++ :: else -> break od;
    if :: p < base -> p = base :: else fi
}

active proctype Client() {
    byte a, b, c;
end: do
    :: atomic { st == 0 && ck < G -> ck++; cn++; up[ck]!HELLO,ses,ckey,cn,base - off; st = 1 }
    :: atomic { st == 1 && dn[ck]?[WELCOME,a,b,c] -> dn[ck]?WELCOME,a,b,c;
         if :: a != ses -> ses = a; off = base - 1            /* another session: numbers begin again */
            :: else fi;
         ckey = b; settle(c); p = base; a = 0; b = 0; c = 0; st = 2 }
    :: atomic { st == 2 && dn[ck]?[ACK,a,b,c] -> dn[ck]?ACK,a,b,c; settle(a); a = 0; b = 0; c = 0 }
    :: atomic { st == 2 && p <= N && nfull(up[ck]) -> up[ck]!MSG,p - off,p,0,0; p++ }
    :: atomic { st != 0 && dn[ck]?[SUPERSEDED,a,b,c] -> assert(false) }
    :: atomic { st != 0 && dn[ck]?[FORBIDDEN,a,b,c] -> assert(false) }
    :: atomic { st != 0 && dn[ck]?[UNAVAILABLE,a,b,c] -> assert(ck < G); st = 0 }
    :: atomic { st != 0 && ck < G -> st = 0 }                 /* it breaks */
    od
}

#define MINE r[s]
#define RENEW versions++; MINE.ver = versions; ver = versions

proctype Handler(byte k) {
    byte a, b, s, lo, my, ver, ack; bool on;
end: do
    :: atomic { dead[k] -> a = 0; b = 0; s = 0; lo = 0; my = 0; ver = 0; ack = 0; on = false; break }
    :: atomic { !dead[k] && k < G && k <= ck -> dead[k] = true }
    :: atomic { !dead[k] && !on && up[k]?[HELLO,s,b,my,lo] -> up[k]?HELLO,s,b,my,lo;
         if
         :: s == 0 || MINE.ver == 0 -> goto fresh              /* the session is not known */
         :: s != 0 && MINE.ver != 0 && b != MINE.key && b != MINE.prev ->
#ifndef WRONGKEY
              if :: my > MINE.cn -> goto fresh                 /* the record may have an older key */
                 :: else fi;
#endif
              dn[k]!FORBIDDEN,0,0,0; dead[k] = true
         :: s != 0 && MINE.ver != 0 && (b == MINE.key || b == MINE.prev) && my <= MINE.cn ->
              dn[k]!SUPERSEDED,0,0,0; dead[k] = true
         :: else ->
              if :: MINE.ack + 1 < lo -> MINE.ack = lo - 1     /* the client has given up what is before */
                 :: else fi;
              goto own
         fi;
         goto done;
fresh:   sessions++; s = sessions; MINE.ack = 0; b = 0;
own:     MINE.cn = my; MINE.prev = b; keys++; MINE.key = keys; RENEW;
         ack = MINE.ack; on = true; dn[k]!WELCOME,s,keys,ack;
done:    b = 0; lo = 0 }
    :: atomic { !dead[k] && on && up[k]?[MSG,a,b,_,_] && nfull(dn[k]) -> up[k]?MSG,a,b,_,_;
         if
         :: a <= ack -> skip                                   /* accepted before */
         :: a > ack && MINE.ver == ver ->
              assert(a == ack + 1);
              if
#ifndef NOIDS
              :: (ids & bit(b))                                /* its outcome is known */
#endif
              :: else -> assert(!(log & bit(b))); log = log | bit(b); ids = ids | bit(b)
              fi;
              ack = a; MINE.ack = a; RENEW; dn[k]!ACK,ack,0,0
         :: else ->
#ifdef OLDRECORD
              dn[k]!SUPERSEDED,0,0,0;
#else
              if :: MINE.cn > my -> dn[k]!SUPERSEDED,0,0,0 :: else -> dn[k]!UNAVAILABLE,0,0,0 fi;
#endif
              dead[k] = true
         fi; a = 0; b = 0 }
    od
}

#define COPY(x, y, i) x[i].cn = y[i].cn; x[i].key = y[i].key; x[i].prev = y[i].prev; x[i].ack = y[i].ack; x[i].ver = y[i].ver

active proctype Store() {
    byte i;
end: do
    :: atomic { !kept && nrw > 0 -> kept = true; olog = log; oids = ids;
         do :: i < G -> i++; COPY(o, r, i) :: else -> break od; i = 0 }
    :: atomic { kept && nrw > 0 && ck < G -> nrw--; kept = false; ids = oids;
#ifdef VERSIONAGAIN
         versions = 0;
#endif
         do :: i < G -> i++; COPY(r, o, i);
#ifdef VERSIONAGAIN
              if :: r[i].ver > versions -> versions = r[i].ver :: else fi;
#endif
              o[i].cn = 0; o[i].key = 0; o[i].prev = 0; o[i].ack = 0; o[i].ver = 0
            :: else -> break od; i = 0;
#ifndef PARTS
         lost = lost | (log & ~olog); log = olog;
#endif
         olog = 0; oids = 0 }
    od
}

init {
    byte g = 1;
    atomic { do :: g <= G -> run Handler(g); g++ :: else -> break od; g = 0 }
}

active proctype Final() {
end: timeout -> assert(st == 2 && base == N + 1)
}
