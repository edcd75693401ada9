// Package transport replaces http.DefaultTransport before most other packages are
// initialised, as instrumentation does.
package transport

import "net/http"

type wrapped struct{ http.RoundTripper }

func init() { http.DefaultTransport = wrapped{http.DefaultTransport} }
