package listen

import (
	"context"
	"net/http"

	"github.com/warrennet/warren/internal/httpserve"
)

// ServeHTTP serves a socket until ctx ends, and joins the server's goroutines. A port that cannot be opened, and a server that fails,
// is the problem of part and is tried again.
func (s *Sockets) ServeHTTP(ctx context.Context, part string, k Socket, server func() *http.Server) {
	s.Keep(k.Role, k)
	s.Run(ctx, part, func(ctx context.Context, up func()) error {
		l, err := s.Listen(ctx, k)
		if err != nil {
			return err
		}
		up()
		return httpserve.Run(ctx, server(), l)
	})
}
