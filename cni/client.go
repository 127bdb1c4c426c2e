package cni

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/warrennet/warren/cni/internal/tree"
	"github.com/warrennet/warren/internal/api"
	"golang.org/x/sys/unix"
)

// client is one connection to the agent, speaking just enough HTTP/1.1: a request with a Content-Length, an answer
// with one, keep-alive. net/http would do it for half a millisecond of start-up and 4 MB more per call.
type client struct{ fd int }

// Bounds of the conversation. The agent answers within milliseconds; it waits up to 3 s for a killed ADD's end.
const (
	answerTimeout = 10 * time.Second
	maxAnswer     = 4 << 20
)

// errAway says that the agent does not answer: it is not running, or it is just being restarted.
var errAway = errors.New("the agent does not answer")

func dial(socket string) (*client, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	tv := unix.NsecToTimeval(int64(answerTimeout))
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%w at %s: %w", errAway, socket, err)
	}
	return &client{fd}, nil
}

// close ends the connection. The agent takes back a reservation that was not committed.
func (c *client) close() { unix.Close(c.fd) }

// call posts a body and returns the answer; no body makes it a GET.
func (c *client) call(path string, body []byte) (tree.Value, error) {
	if err := c.send(path, body); err != nil {
		return tree.Value{}, err
	}
	return c.receive(path)
}

func (c *client) send(path string, body []byte) error {
	method := "GET"
	if body != nil {
		method = "POST"
	}
	msg := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: warren\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", method, path, len(body))
	for msg = append(msg, body...); len(msg) > 0; {
		n, err := unix.SendmsgN(c.fd, msg, nil, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("%w: send %s: %w", errAway, path, err)
		}
		msg = msg[n:]
	}
	return nil
}

func (c *client) receive(path string) (tree.Value, error) {
	status, body, err := c.answer()
	if err != nil {
		return tree.Value{}, fmt.Errorf("%w: read the answer to %s: %w", errAway, path, err)
	}
	v, err := tree.Parse(body)
	if status != 200 {
		e := readError(v)
		if e.Message == "" {
			return v, fmt.Errorf("the agent answered %s with HTTP status %d", path, status)
		}
		if e.Code == 0 {
			e.Code = api.CodeInternal
		}
		return v, e
	}
	if err != nil {
		return v, fmt.Errorf("read the agent's answer to %s: %w", path, err)
	}
	return v, nil
}

// answer reads one response. The agent sends nothing unasked, so nothing may stand behind it.
func (c *client) answer() (status int, body []byte, err error) {
	buf, size, head := make([]byte, 0, 4096), -1, 0
	for size < 0 || len(buf) < size {
		buf = append(buf, make([]byte, 4096)...)[:len(buf)]
		n, err := unix.Read(c.fd, buf[len(buf):cap(buf)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, nil, err
		case n == 0:
			return 0, nil, errors.New("the connection ended")
		}
		buf = buf[:len(buf)+n]
		if size < 0 {
			var length int
			if status, head, length, err = parseHead(buf); err != nil {
				return 0, nil, err
			}
			if head > 0 {
				size = head + length
			}
		}
	}
	return status, buf[head:size], nil
}

// parseHead reads status line and headers; head is their length, 0 while they are incomplete.
func parseHead(buf []byte) (status, head, length int, err error) {
	end := bytes.Index(buf, []byte("\r\n\r\n"))
	if end < 0 {
		if len(buf) > 64<<10 {
			return 0, 0, 0, errors.New("endless headers")
		}
		return 0, 0, 0, nil
	}
	lines := strings.Split(string(buf[:end]), "\r\n")
	proto, rest, _ := strings.Cut(lines[0], " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err = strconv.Atoi(code)
	if err != nil || !strings.HasPrefix(proto, "HTTP/1.") {
		return 0, 0, 0, fmt.Errorf("no HTTP answer: %q", lines[0])
	}
	length = -1
	for _, l := range lines[1:] {
		if k, v, _ := strings.Cut(l, ":"); strings.EqualFold(k, "Content-Length") {
			length, err = strconv.Atoi(strings.TrimSpace(v))
		}
	}
	if err != nil || length < 0 || length > maxAnswer {
		return 0, 0, 0, errors.New("the answer has no usable Content-Length")
	}
	return status, end + 4, length, nil
}
