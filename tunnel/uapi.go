package tunnel

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

// The socket for wg(8) (https://www.wireguard.com/xplatform/). "get" is the engine's own answer. "set" may not
// change anything that the cluster decides: see uapiset.go.

const (
	uapiClients = 8               // connections served at a time
	uapiTimeout = 5 * time.Second // for one request and its answer
	uapiLimit   = 1 << 20         // bytes of one request
)

// listenUAPI makes the socket, replacing one that a dead process left.
func listenUAPI(dir, name string) (*net.UnixListener, error) {
	path := filepath.Join(dir, name+".sock")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make folder for the WireGuard socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("socket %s: another process answers on it", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// Until here only root could connect too: connecting needs write permission, which the umask denies to others.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protect %s: %w", path, err)
	}
	return l, nil
}

func (t *Tunnel) serveUAPI(ctx context.Context, l *net.UnixListener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	slots := make(chan struct{}, uapiClients)
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
			t.converse(c)
		})
	}
}

// converse answers requests on one connection until it ends.
func (t *Tunnel) converse(c net.Conn) {
	for {
		if err := c.SetDeadline(time.Now().Add(uapiTimeout)); err != nil {
			return
		}
		// A reader per request bounds what one may send; wg(8) waits for the answer before it asks again.
		in := bufio.NewReaderSize(io.LimitReader(c, uapiLimit), 4096)
		if !t.request(in, c) {
			return
		}
	}
}

// request answers one operation and reports whether another may follow.
func (t *Tunnel) request(in *bufio.Reader, out io.Writer) bool {
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
		text, err = t.uapiGet()
	case "set=1":
		err = t.uapiSet(in)
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

// errnoOf is what wg(8) prints as the reason; it expects the number below zero, as the engine's own socket sends it.
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

func (t *Tunnel) uapiGet() (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.engine == nil {
		return "", unix.ENODEV
	}
	return t.engine.IpcGet()
}
