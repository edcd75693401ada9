/* keys.pml - the resume key of a session when WELCOME is lost (docs/protocol.md, section 4).
 *
 * Up to G connections of one client, each of which may break at any moment. The server makes
 * a new key at each HELLO, and keeps the one that was presented until a frame after WELCOME
 * shows that the client has the new one. A HELLO of an old connection may arrive late. The
 * client may crash: it goes on with the key that is durable.
 * The last connection does not break, and nothing crashes once it is in use.
 *
 * Checked: no HELLO that is not fenced is refused, which would end the client for good;
 * when nothing moves any more, the client is connected.
 *
 * Mutations, each must FAIL:
 *  -DNOPREV   the server forgets the key that was presented at once
 *  -DLATEKEY  the client sends a frame before the new key is durable
 *  -DLATEHELLO  the client presents a key in HELLO before that key is durable
 *  -DFENCELATE  the server makes a new key before it checks the connection number
 */
#ifndef G
#define G 4
#endif
#ifndef CC
#define CC 2
#endif

mtype = { HELLO, WELCOME, FRAME };
chan up[G+1] = [2] of { mtype, byte };   /* HELLO key | FRAME 0 */
chan dn[G+1] = [1] of { mtype, byte };   /* WELCOME key */
bool dead[G+1];

byte key = 1, prev = 0, newest = 1, cur = 0;      /* server */
byte mine = 1, durable = 1, ck = 0, st = 0, ncc = CC;  /* client */

active proctype Client() {
    byte k;
end: do
#ifdef LATEHELLO
    :: atomic { st == 0 && ck < G -> ck++; up[ck]!HELLO,mine; st = 1 }
#else
    :: atomic { st == 0 && ck < G && durable == mine -> ck++; up[ck]!HELLO,mine; st = 1 }
#endif
    :: atomic { st == 1 && dn[ck]?[WELCOME,k] -> dn[ck]?WELCOME,k; mine = k; k = 0; st = 2 }
#ifdef LATEKEY
    :: atomic { st == 2 -> up[ck]!FRAME,0; st = 3 }
#else
    :: atomic { st == 2 && durable == mine -> up[ck]!FRAME,0; st = 3 }
#endif
    :: atomic { durable != mine -> durable = mine }
    :: atomic { st != 0 && ck < G -> st = 0 }                       /* it breaks */
    :: atomic { ncc > 0 && ck < G -> ncc--; mine = durable; st = 0 } /* the client crashes */
    od
}

proctype Handler(byte k) {
    byte h;
end: do
    :: atomic { dead[k] -> h = 0; break }
    :: atomic { !dead[k] && k < G && k <= ck -> dead[k] = true }
    :: atomic { !dead[k] && up[k]?[HELLO,h] -> up[k]?HELLO,h;
#ifdef FENCELATE
         if :: k <= cur && (h == key || h == prev) -> newest++; prev = h; key = newest; dead[k] = true
            :: k <= cur && h != key && h != prev -> dead[k] = true
#else
         if :: k <= cur -> dead[k] = true                            /* superseded */
#endif
            :: k > cur -> assert(h == key || h == prev);
               cur = k; newest++; key = newest;
#ifdef NOPREV
               prev = 0;
#else
               prev = h;
#endif
               dn[k]!WELCOME,key
         fi; h = 0 }
    :: atomic { !dead[k] && up[k]?[FRAME,h] -> up[k]?FRAME,h;
         if :: cur == k -> prev = 0 :: else -> dead[k] = true fi }
    od
}

init {
    byte g = 1;
    atomic { do :: g <= G -> run Handler(g); g++ :: else -> break od; g = 0 }
}

active proctype Final() {
end: timeout -> assert(st == 3 && mine == key)
}
