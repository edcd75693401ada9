package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// maxFile bounds the length of the file with settings, in bytes.
const maxFile = 1 << 20

// file is a kong.Resolver: the settings in the file that the setting config names.
type file struct {
	read   bool
	values map[string]any
}

// Validate implements kong.Resolver.
func (f *file) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver. It returns nil for a setting that the file does not have, or
// that the environment has.
func (f *file) Resolve(ctx *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	if !f.read {
		f.read = true
		if err := f.load(ctx); err != nil {
			return nil, err
		}
	}
	for _, name := range flag.Envs {
		if _, set := os.LookupEnv(name); set {
			return nil, nil
		}
	}
	return f.values[flag.Name], nil
}

// load reads the file, if one is named. All keys of it must be settings.
func (f *file) load(ctx *kong.Context) error {
	path := ""
	var known []string
	for _, flag := range ctx.Model.Flags {
		if flag.Name == "config" {
			path, _ = ctx.FlagValue(flag).(string)
			if path == "" {
				path = os.Getenv(prefix + "_CONFIG")
			}
			continue
		}
		known = append(known, flag.Name)
	}
	if path == "" {
		return nil
	}
	data, err := Bytes("config", path, maxFile)
	if err != nil {
		return err
	}
	if f.values, err = parse(data, known); err != nil {
		return err
	}
	return nil
}

// parse returns the values of a file by their keys: a text, or a list of texts.
func parse(data []byte, known []string) (map[string]any, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return nil, &Error{"config", "is not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	top := document.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, &Error{"config", "must have lines such as listen: 127.0.0.1:8080"}
	}
	values := map[string]any{}
	var errs []error
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		name := key.Value
		_, twice := values[name]
		switch {
		case !slices.Contains(known, name):
			errs = append(errs, &Error{name, fmt.Sprintf("line %d of the file: there is no such setting; -help lists them", key.Line)})
		case twice:
			errs = append(errs, &Error{name, fmt.Sprintf("line %d of the file: it is there twice", key.Line)})
		default:
			v, ok := plain(value)
			if !ok {
				errs = append(errs, &Error{name, fmt.Sprintf("line %d of the file: the value must be a text, a number, or a list of these", value.Line)})
			}
			values[name] = v
		}
	}
	return values, errors.Join(errs...)
}

// plain returns the value of a node as a text or a list of texts, and false if it is neither.
func plain(n *yaml.Node) (any, bool) {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "", true
		}
		return n.Value, true
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode || item.Tag == "!!null" {
				return nil, false
			}
			list = append(list, item.Value)
		}
		return list, true
	}
	return nil, false
}
