/* horizon.pml - a message that is sent again in a later session (docs/protocol.md, sections 3 and 4).
 *
 * One message and a clock. The client sends it, and sends it again with its age on the next
 * connection, up to three times. Each copy may arrive up to T ticks later, or never. The session is
 * always lost, so that only the id can tell: the server remembers it for D ticks after it has
 * accepted the message, and M ticks longer. It refuses a copy whose age is D or more with
 * "unknown outcome". The client may crash: it goes on with the time of the first transmission
 * that is durable, or with none, and then its age is that of the record.
 *
 * Checked: the message is never accepted twice; "unknown outcome" is not said of one whose age
 * is below D.
 *
 * Mutations, each must FAIL:
 *  -DNOAGE       a copy counts as new, whatever its age is
 *  -DNOMARGIN    an id is remembered for exactly D ticks after the message was accepted, less the way
 *  -DLASTAGE     the age counts from the last transmission
 *  -DCRASHAGE    after a crash the message counts as never sent
 */
#define G 3
#ifndef D
#define D 3
#endif
#ifndef T
#define T 2
#endif
#ifndef M
#define M T
#endif
#ifndef END
#define END 10
#endif

byte now = 0;
byte first = 255;         /* client: time of the first transmission; 255: none; durable before it leaves */
byte sends = 0, ncc = 1;
byte accepted = 0;        /* times */
byte at = 255;            /* server: when it was accepted; 255: no id */
bool fly[G]; byte sent[G], age[G];   /* copies on their way: time of the write, and its age then */

active proctype Clock() {
    byte g;
end: do
    :: atomic { now < END ->
         /* a copy that is T old has arrived or is lost */
         g = 0; do :: g < G -> if :: fly[g] && now + 1 - sent[g] > T -> fly[g] = false :: else fi; g++ :: else -> break od; g = 0;
         now++;
#ifdef NOMARGIN
#define KEEP (D - T)
#else
#define KEEP (D + M)
#endif
         if :: at != 255 && now - at >= KEEP -> at = 255 :: else fi }
    od
}

active proctype Client() {
end: do
    :: atomic { sends < G && now < END ->
         if :: first == 255 -> first = now :: else fi;
         fly[sends] = true; sent[sends] = now; age[sends] = now - first;
#ifdef LASTAGE
         first = now;
#endif
         sends++ }
    :: atomic { ncc > 0 && first != 255 -> ncc--;
#ifdef CRASHAGE
         first = 255
#else
         skip
#endif
       }
    od
}

active proctype Server() {
    byte g;
end: do
    :: atomic { fly[0] || fly[1] || fly[2] ->
         if :: fly[0] -> g = 0 :: fly[1] -> g = 1 :: fly[2] -> g = 2 fi;
         fly[g] = false;
               if :: at != 255 -> skip                               /* known: its outcome again */
#ifndef NOAGE
                  :: at == 255 && age[g] >= D -> skip                /* unknown outcome */
                  :: at == 255 && age[g] < D ->
#else
                  :: at == 255 ->
#endif
                     assert(accepted == 0); accepted = 1; at = now
               fi; g = 0 }
    od
}
