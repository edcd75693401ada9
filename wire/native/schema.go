package native

// A schema lists the fields of one object: JSON keys by binary field number
// (docs/protocol.md, section 2). Reserved numbers have no key. A mask has bit n
// set for field n.
type schema struct {
	keys     []string
	up       uint32   // mask of the fields required from a client
	down     uint32   // mask of the fields required from a server
	repeated uint32   // mask of the lists
	members  []string // beginning of a JSON member: comma, key, colon
}

// mask returns the mask of the given field numbers.
func mask(numbers ...int) (m uint32) {
	for _, n := range numbers {
		m |= 1 << n
	}
	return m
}

// both returns s with fields that either end must set.
func both(s schema, numbers ...int) schema {
	s.up, s.down = mask(numbers...), mask(numbers...)
	return s
}

var (
	helloSchema = both(schema{keys: []string{1: "cn", 2: "sid", 3: "key", 4: "se", 5: "tok",
		6: "up", 8: "subs", 12: "feat", 14: "ttl", 15: "hb", 16: "rl"}, repeated: mask(8, 12)}, 1)
	welcomeSchema = both(schema{keys: []string{1: "sid", 2: "key", 3: "se", 4: "res", 5: "ack",
		6: "sack", 7: "out", 8: "cr", 10: "hb", 11: "ttl", 12: "dedup", 13: "lim", 14: "spread",
		15: "feat", 18: "exp", 19: "tag", 20: "cn", 21: "dup"}, repeated: mask(6, 7, 15, 21)}, 1, 2, 3, 4, 5, 8, 20)
	// The reader requires a topic in a client's message that is not void.
	msgSchema = schema{keys: []string{1: "ch", 2: "s", 3: "p", 4: "id", 5: "tp", 6: "d", 7: "ct",
		8: "h", 10: "tag", 11: "age", 12: "ttl", 13: "fl"}, repeated: mask(8),
		up: mask(2, 4), down: mask(2, 3, 4)}
	ackSchema = schema{keys: []string{1: "to", 2: "x", 3: "n", 4: "cr", 5: "dcr", 6: "dup"},
		repeated: mask(2, 3, 5, 6)}
	subSchema = both(schema{keys: []string{1: "ch", 2: "tp", 3: "from", 4: "ep", 5: "o", 6: "tag",
		7: "n", 11: "cr", 13: "tok"}}, 1, 2, 11)
	subokSchema = both(schema{keys: []string{1: "ch", 2: "ep", 3: "o", 4: "tag", 5: "head",
		6: "rec", 7: "snap"}}, 1, 2, 3)
	unsubSchema = both(schema{keys: []string{1: "ch", 2: "code", 3: "msg", 4: "retry"}}, 1)
	gapSchema   = both(schema{keys: []string{1: "ch", 2: "p", 3: "to", 4: "why", 5: "n",
		6: "tag"}}, 1, 2, 3, 6)
	resetSchema = both(schema{keys: []string{1: "ch", 2: "ep", 3: "o", 4: "tag",
		5: "why"}}, 1, 2, 3, 4)
	authSchema   = schema{keys: []string{1: "tok", 2: "exp", 3: "need", 4: "code"}}
	goawaySchema = schema{keys: []string{1: "code", 2: "after", 3: "spread", 4: "dl", 5: "url",
		6: "res", 7: "fin"}}
	pingSchema = schema{keys: []string{1: "n"}}
	errSchema  = both(schema{keys: []string{1: "code", 2: "msg", 3: "ch", 4: "s", 5: "retry",
		6: "fatal"}}, 1)

	// The numbers of what a message has too are those of a message.
	callSchema  = both(schema{keys: []string{1: "n", 5: "tp", 6: "d", 7: "ct", 8: "h", 12: "dl"}, repeated: mask(8)}, 1, 5)
	replySchema = both(schema{keys: []string{1: "n", 2: "code", 3: "msg", 6: "d", 7: "ct"}}, 1)

	uplinkSchema   = both(schema{keys: []string{1: "lo", 2: "hi", 3: "tag"}}, 1, 2)
	creditSchema   = schema{keys: []string{1: "n", 2: "b"}}
	rejectSchema   = both(schema{keys: []string{1: "s", 2: "code"}}, 1, 2)
	chCreditSchema = both(schema{keys: []string{1: "ch", 2: "n", 3: "b"}}, 1)
	rangeSchema    = both(schema{keys: []string{1: "lo", 2: "hi"}}, 1, 2) // binary only
	entrySchema    = schema{keys: []string{1: "key", 2: "value"}}         // binary only
	limitsSchema   = schema{keys: []string{1: "batch", 2: "payload", 3: "headers", 4: "hsize",
		5: "subs", 6: "hsubs", 7: "depth", 8: "token"}}
)

func init() {
	for _, s := range append([]*schema{&uplinkSchema, &creditSchema, &rejectSchema, &chCreditSchema, &limitsSchema}, schemas[1:]...) {
		s.members = make([]string, len(s.keys))
		for num, key := range s.keys {
			s.members[num] = `,"` + key + `":`
		}
	}
}

// schemas are the schemas of the frames, by type.
var schemas = [...]*schema{TypeHello: &helloSchema, TypeWelcome: &welcomeSchema, TypeMsg: &msgSchema,
	TypeAck: &ackSchema, TypeSub: &subSchema, TypeSubOK: &subokSchema, TypeUnsub: &unsubSchema,
	TypeGap: &gapSchema, TypeReset: &resetSchema, TypeAuth: &authSchema, TypeGoAway: &goawaySchema,
	TypePing: &pingSchema, TypePong: &pingSchema, TypeErr: &errSchema,
	TypeCall: &callSchema, TypeReply: &replySchema}

// The JSON words of the enumerations, by number.
var (
	fromWords  = []string{FromResume: "resume", FromNew: "new", FromFirst: "first", FromLast: "last"}
	gapWords   = []string{GapExpired: "expired", GapTrimmed: "trimmed", GapDropped: "dropped", GapForbidden: "forbidden", GapTooBig: "too_big"}
	resetWords = []string{ResetEpoch: "epoch", ResetDiverged: "diverged", ResetAhead: "ahead", ResetUnverifiable: "unverifiable"}
)
