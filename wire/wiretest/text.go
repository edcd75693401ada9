package wiretest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/limpet-go/limpet/wire"
)

// payloadOf is the payload of message n.
func payloadOf(n int) []byte { return fmt.Appendf(nil, `{"n":%d}`, n) }

// numberIn returns the number of the one payload that is in b, which must hold it
// unchanged.
func numberIn(b []byte) (int, bool) {
	_, rest, ok := bytes.Cut(b, []byte(`{"n":`))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest, []byte("}"))
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(string(digits))
	return n, err == nil
}

// messageID is the id of message n.
func messageID(n int) wire.ID {
	return wire.ID{0x01, 0x93, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
}

// cut returns the beginning of b, for a finding.
func cut(b []byte) []byte { return b[:min(len(b), 120)] }

// splitList returns the elements of a header whose values are lists.
func splitList(values []string) (list []string) {
	for _, v := range values {
		for name := range strings.SplitSeq(v, ",") {
			list = append(list, strings.TrimSpace(name))
		}
	}
	return list
}
