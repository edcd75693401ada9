package socket

import (
	"maps"
	"net/http"
	"slices"
	"testing"
)

// A header of the credential replaces one of the options in any spelling, and changes neither.
func TestMergeHeader(t *testing.T) {
	options := http.Header{"x-api-key": {"old"}, "Other": {"a", "b"}}
	credential := http.Header{"X-API-KEY": {"new"}, "cookie": {"c"}}
	got := MergeHeader(options, credential)
	want := http.Header{"X-Api-Key": {"new"}, "Other": {"a", "b"}, "Cookie": {"c"}}
	if !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("%v, want %v", got, want)
	}
	got["Other"][0] = "x"
	if options["Other"][0] != "a" || len(options) != 2 || len(credential) != 2 {
		t.Errorf("the options are %v, the credential is %v", options, credential)
	}
}
