// Package config reads the settings of the gateway: from flags, from the environment and
// from a file, in this order of precedence.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/alecthomas/kong"
)

// prefix begins the name of each environment variable.
const prefix = "LIMPET_GATEWAY"

// ErrHelp says that the settings were asked for and printed.
var ErrHelp = errors.New("help was printed")

// Error is a setting that cannot be used.
type Error struct {
	Key    string // the name of the flag and the key of the file; "" if it is none of them
	Reason string // what is wrong, and what to do
}

// Error returns the key and the reason.
func (e *Error) Error() string {
	if e.Key == "" {
		return e.Reason
	}
	return e.Key + ": " + e.Reason
}

// Load returns the settings, checked. args are those of the command line without the name of
// the program; what -help prints goes to out. The error wraps an *Error for each setting that is
// wrong, or is ErrHelp.
func Load(args []string, out io.Writer) (*Config, error) {
	var c Config
	helped := false
	parser, err := kong.New(&c,
		kong.Name("gateway"),
		kong.Description(description),
		kong.DefaultEnvars(prefix),
		kong.Writers(out, out),
		kong.Exit(func(int) { helped = true }),
		kong.Resolvers(&file{}),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return nil, err
	}
	_, err = parser.Parse(twoDashes(args))
	switch {
	case helped:
		return nil, ErrHelp
	case err != nil:
		return nil, readable(err)
	}
	return &c, c.check()
}

// twoDashes returns args with -name as --name: both are usual.
func twoDashes(args []string) []string {
	args = slices.Clone(args)
	for i, a := range args {
		if len(a) > 2 && a[0] == '-' && a[1] >= 'a' && a[1] <= 'z' && a[2] != '=' {
			args[i] = "-" + a
		}
	}
	return args
}

// readable returns err without the dashes that kong puts before a key, so that each error names a
// setting in the same way.
func readable(err error) error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	return &Error{Reason: "command line, environment or file: " + err.Error() + "; -help lists the settings"}
}

// Bytes returns the content of the file that the setting key names, without white space at its
// ends. limit bounds its length.
func Bytes(key, path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &Error{key, fmt.Sprintf("cannot be read: %v", withoutPath(err))}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, &Error{key, fmt.Sprintf("cannot be read: %v", withoutPath(err))}
	case int64(len(data)) > limit:
		return nil, &Error{key, fmt.Sprintf("the file is longer than %d bytes", limit)}
	}
	return data, nil
}

// withoutPath returns the reason of a failed file operation.
func withoutPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
