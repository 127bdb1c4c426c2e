// Package wire parses simple DNS queries and writes answers in wire form (RFC 1035, RFC 6891) without allocating.
//
// It covers the messages of the hot path only. github.com/miekg/dns parses every other message; it allocates for each name
// and record, which the hot path must not. Names are in wire form and lower case throughout; answers repeat the question
// in the case of the client.
package wire
