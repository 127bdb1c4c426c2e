package uapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of the socket.
const (
	maxClients     = 8               // connections served at a time
	requestTimeout = 5 * time.Second // for one request and its answer
	maxRequest     = 1 << 20         // bytes of one request
)

// Device carries out the requests of the socket. Errors that wrap a unix.Errno are answered with it.
type Device interface {
	// Get returns the state in the format of ParseState.
	Get() (string, error)
	// Set changes what may be changed.
	Set(r Request) error
}

// Listen creates the socket DIR/NAME.sock. It replaces one that an ended process left.
func Listen(dir, name string) (*net.UnixListener, error) {
	path := filepath.Join(dir, name+".sock")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create directory of the WireGuard socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("socket %s: another process answers on it", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old WireGuard socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// Only root could connect before, too: that needs write permission, which the umask denies to others.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("set mode of %s: %w", path, err)
	}
	return l, nil
}

// Serve answers requests until ctx ends, and closes l.
func Serve(ctx context.Context, l *net.UnixListener, d Device) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	slots := make(chan struct{}, maxClients)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on the WireGuard socket: %w", err)
		}
		select {
		case slots <- struct{}{}:
		default:
			c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { c.Close(); <-slots }()
			end := context.AfterFunc(ctx, func() { c.Close() })
			defer end()
			converse(c, d)
		})
	}
}

// converse answers requests on one connection until it ends.
func converse(c net.Conn, d Device) {
	for {
		if err := c.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
			return
		}
		// A reader per request bounds its size; wg(8) waits for the answer before its next request.
		in := bufio.NewReaderSize(io.LimitReader(c, maxRequest), 4096)
		if !answer(in, c, d) {
			return
		}
	}
}

// answer answers one operation and reports whether another may follow.
func answer(in *bufio.Reader, out io.Writer, d Device) bool {
	op, err := readLine(in)
	if err != nil {
		return false
	}
	var text string
	switch op {
	case "get=1":
		if end, err := readLine(in); err != nil || end != "" {
			return false
		}
		text, err = d.Get()
	case "set=1":
		var r Request
		if r, err = ParseSet(in); err == nil {
			err = d.Set(r)
		}
	default:
		return false
	}
	_, werr := fmt.Fprintf(out, "%serrno=%d\n\n", text, errnoOf(err))
	return werr == nil && !errors.Is(err, errProtocol)
}

var errProtocol = errors.New("not the WireGuard configuration protocol")

// readLine reads one line without its end. Lines are short: the longest is a key or an address.
func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return "", errProtocol
	}
	return strings.TrimSuffix(string(line), "\n"), nil
}

// errnoOf returns the number that wg(8) prints as the reason. It expects a negative one, as wireguard-go's own socket sends it.
func errnoOf(err error) int {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return -int(errno)
	case errors.Is(err, errProtocol):
		return -int(unix.EPROTO)
	}
	return -int(unix.EIO)
}
