package server

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd/client"
	"github.com/warrennet/warren/internal/store/etcd/records"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// access refuses requests of revoked client certificates: those with the common name of a revoked node that were issued before
// the revocation. It follows the revocations of all clusters in this member's own data, so that it works without a quorum.
// Requests wait until the list is known. A request that has begun, such as a watch, ends when its certificate is revoked. The
// connection itself stays open, and every further request on it is refused.
type access struct {
	known chan struct{} // closed when the list was read
	// ignored is called for a revocation that the full list cannot have.
	ignored func(node string)

	mu      sync.Mutex
	until   map[string]time.Time // by common name: certificates that were issued until then are revoked
	streams map[*guardedStream]struct{}
}

func newAccess() *access {
	return &access{known: make(chan struct{}), ignored: func(string) {}, until: map[string]time.Time{},
		streams: map[*guardedStream]struct{}{}}
}

// options make the client port refuse revoked certificates.
func (a *access) options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ChainUnaryInterceptor(a.unary), grpc.ChainStreamInterceptor(a.stream)}
}

// follow reads the list from the member and then every change of it, until ctx ends. It reads the list again when the watch
// fails, for instance after a compaction.
func (a *access) follow(ctx context.Context, cli *clientv3.Client) {
	for ctx.Err() == nil {
		if a.followOnce(ctx, cli) != nil {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func (a *access) followOnce(ctx context.Context, cli *clientv3.Client) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keys, err := cli.Get(ctx, client.Root, clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithSerializable())
	if err != nil {
		return err
	}
	events := cli.Watch(ctx, client.Root, clientv3.WithPrefix(), clientv3.WithRev(keys.Header.Revision+1))
	for _, kv := range keys.Kvs {
		if _, ok := records.RevocationKey(string(kv.Key)); !ok {
			continue
		}
		got, err := cli.Get(ctx, string(kv.Key), clientv3.WithSerializable())
		if err != nil {
			return err
		}
		for _, kv := range got.Kvs {
			a.put(kv)
		}
	}
	a.markKnown()
	for resp := range events {
		if err := resp.Err(); err != nil {
			return err
		}
		for _, e := range resp.Events {
			if e.Type == clientv3.EventTypePut { // a deletion ends no revocation
				a.put(e.Kv)
			}
		}
	}
	return fmt.Errorf("watch %s: stream ended: %w", client.Root, context.Cause(ctx))
}

func (a *access) markKnown() {
	select {
	case <-a.known:
	default:
		close(a.known)
	}
}

// put takes a version of a revocation and ends the requests that it covers.
func (a *access) put(kv *mvccpb.KeyValue) {
	node, ok := records.RevocationKey(string(kv.Key))
	if !ok {
		return
	}
	r, err := records.DecodeRevocation(kv.Value, node, time.Now())
	if err != nil {
		return // the agents report it
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	last, ok := a.until[node]
	if ok && !r.Revoked.After(last) {
		return
	}
	if !ok && len(a.until) >= model.MaxRevocations {
		a.ignored(node)
		return
	}
	a.until[node] = r.Revoked
	for s := range a.streams {
		if a.revoked(s.who) {
			s.cancel(errRevoked(s.who))
		}
	}
}

// caller is the certificate of a client.
type caller struct {
	name   string
	issued time.Time
}

// callerOf returns the zero caller for a connection without a client certificate.
func callerOf(ctx context.Context) caller {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return caller{}
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return caller{}
	}
	c := info.State.PeerCertificates[0]
	return caller{c.Subject.CommonName, c.NotBefore}
}

// revoked is called with mu held.
func (a *access) revoked(c caller) bool {
	until, ok := a.until[c.name]
	return ok && c.name != "" && !c.issued.After(until)
}

func errRevoked(c caller) error {
	return status.Errorf(codes.PermissionDenied, "the client certificate of %q was revoked", c.name)
}

// check waits until the list is known and refuses a revoked caller.
func (a *access) check(ctx context.Context, c caller) error {
	select {
	case <-a.known:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.revoked(c) {
		return errRevoked(c)
	}
	return nil
}

func (a *access) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := a.check(ctx, callerOf(ctx)); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// guardedStream is a stream whose context ends when the certificate of its caller is revoked.
type guardedStream struct {
	grpc.ServerStream
	who    caller
	ctx    context.Context //nolint:containedctx // grpc.ServerStream has its context as a method
	cancel context.CancelCauseFunc
}

// Context replaces that of the stream.
func (s *guardedStream) Context() context.Context { return s.ctx }

// RecvMsg receives no request of a revoked caller.
func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return context.Cause(s.ctx)
}

// SendMsg sends nothing to a revoked caller.
func (s *guardedStream) SendMsg(m any) error {
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (a *access) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	s := &guardedStream{ServerStream: ss, who: callerOf(ss.Context())}
	s.ctx, s.cancel = context.WithCancelCause(ss.Context())
	defer s.cancel(nil)
	a.mu.Lock()
	a.streams[s] = struct{}{}
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.streams, s)
		a.mu.Unlock()
	}()
	if err := a.check(ss.Context(), s.who); err != nil { // after it is registered, so that no revocation is missed
		return err
	}
	err := handler(srv, s)
	if cause := context.Cause(s.ctx); cause != nil && status.Code(cause) == codes.PermissionDenied {
		return cause
	}
	return err
}
