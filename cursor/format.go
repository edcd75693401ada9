package cursor

import (
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// A file is text, for those who look at it. Each value is quoted as in Go, since positions
// may hold any bytes. The last line has the CRC-32C of all before it.
const (
	formatLine = "limpet cursor 1\n"
	maxFile    = 64 << 10 // bytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(text string) string {
	return fmt.Sprintf("sum %08x\n", crc32.Checksum([]byte(text), castagnoli))
}

// encode returns the content of the file for a cursor.
func encode(name string, c Cursor) ([]byte, error) {
	var b strings.Builder
	b.WriteString(formatLine)
	for _, f := range c.fields(&name) {
		b.WriteString(f.key + " " + strconv.QuoteToASCII(*f.value) + "\n")
	}
	b.WriteString("offset " + strconv.FormatUint(c.Position.Offset, 10) + "\n")
	b.WriteString(checksum(b.String()))
	if b.Len() > maxFile {
		return nil, ErrTooBig
	}
	return []byte(b.String()), nil
}

type field struct {
	key   string
	value *string
}

// fields are the texts of a file, in their order.
func (c *Cursor) fields(name *string) []field {
	return []field{
		{"name", name}, {"dialect", &c.Feed.Dialect}, {"host", &c.Feed.Host}, {"topic", &c.Feed.Topic},
		{"epoch", &c.Position.Epoch}, {"tag", &c.Position.Tag},
	}
}

// decode returns the cursor in the content of the file for name.
func decode(name string, data []byte) (c Cursor, err error) {
	text := string(data)
	end := len(text) - len(checksum(""))
	if end < 0 || checksum(text[:end]) != text[end:] {
		return Cursor{}, fmt.Errorf("%w (its checksum is wrong)", ErrCorrupt)
	}
	saved := ""
	rest, good := strings.CutPrefix(text[:end], formatLine)
	for _, f := range c.fields(&saved) {
		*f.value, rest, good = cutLine(rest, f.key+" ", good)
		if good {
			*f.value, err = strconv.Unquote(*f.value)
			good = err == nil
		}
	}
	offset, rest, good := cutLine(rest, "offset ", good)
	c.Position.Offset, err = strconv.ParseUint(offset, 10, 64)
	switch {
	case !good || err != nil || rest != "":
		return Cursor{}, fmt.Errorf("%w (its form is not that of this version)", ErrCorrupt)
	case saved != name:
		return Cursor{}, fmt.Errorf("%w (it is that of another name)", ErrCorrupt)
	}
	return c, nil
}

// cutLine returns what follows prefix in the first line of text, and the lines after it.
func cutLine(text, prefix string, good bool) (value, rest string, ok bool) {
	line, rest, ended := strings.Cut(text, "\n")
	value, has := strings.CutPrefix(line, prefix)
	return value, rest, good && ended && has
}
