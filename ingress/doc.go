// Package ingress is the process that serves Ingresses: `warren ingress`.
//
// It owns the listeners for HTTP, HTTPS, metrics and the local API, the goroutine that compiles routes, and the access log. The route
// table (package route) is replaced as a whole through an atomic pointer. While the store is unreachable the last table remains in
// use. The package writes to no API server.
package ingress
