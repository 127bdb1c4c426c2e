package ingress

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/warrennet/warren/ingress/engine"
)

// accessLine is one line of the access log. The query is left out, because it may have secrets.
type accessLine struct {
	Time     string  `json:"time"` // RFC 3339, end of the request
	Client   string  `json:"client"`
	Method   string  `json:"method"`
	Scheme   string  `json:"scheme"`
	Host     string  `json:"host"`
	Path     string  `json:"path"`
	Status   int     `json:"status"`
	Received int64   `json:"received"` // bytes of bodies
	Sent     int64   `json:"sent"`
	Seconds  float64 `json:"seconds"`
	Ingress  string  `json:"ingress,omitempty"` // namespace/name
	Service  string  `json:"service,omitempty"`
	Endpoint string  `json:"endpoint,omitempty"`
	Attempts int     `json:"attempts,omitempty"`
	Agent    string  `json:"userAgent,omitempty"`
}

// accessLog writes lines of JSON. nil writes nothing.
type accessLog struct {
	sample int

	mu     sync.Mutex
	n      int
	out    *bufio.Writer
	file   io.Closer // nil for standard output
	timer  *time.Timer
	closed bool
}

// flushAfter is how long a line may stay in memory.
const flushAfter = 200 * time.Millisecond

func openAccessLog(file string, sample int) (*accessLog, error) {
	switch file {
	case "":
		return nil, nil
	case "-":
		return &accessLog{sample: sample, out: bufio.NewWriter(os.Stdout)}, nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open the access log: %w", err)
	}
	return &accessLog{sample: sample, out: bufio.NewWriter(f), file: f}, nil
}

func (a *accessLog) write(e *engine.Event) {
	if a == nil {
		return
	}
	a.mu.Lock()
	a.n++
	skip := a.n%a.sample != 0 && e.Status < 500
	a.mu.Unlock()
	if skip {
		return
	}
	r := e.Request
	line := accessLine{Time: time.Now().UTC().Format(time.RFC3339Nano), Client: r.Client.Addr().String(), Method: r.Method,
		Scheme: r.Scheme, Host: r.Host, Path: r.Path, Status: e.Status, Received: e.Received, Sent: e.Sent,
		Seconds: e.Duration.Seconds(), Attempts: e.Attempts, Agent: r.Header.Get("User-Agent")}
	if e.Rule != nil {
		line.Ingress, line.Service = e.Rule.Namespace+"/"+e.Rule.Object, e.Rule.Service
	}
	if e.Endpoint.IsValid() {
		line.Endpoint = e.Endpoint.String()
	}
	raw, err := json.Marshal(line)
	if err != nil {
		return // no value of the line can fail
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	_, _ = a.out.Write(append(raw, '\n')) // a full disk must not end requests
	if a.timer == nil {
		a.timer = time.AfterFunc(flushAfter, a.flush)
	}
}

func (a *accessLog) flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = nil
	_ = a.out.Flush()
}

func (a *accessLog) close() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	_ = a.out.Flush()
	if a.file != nil {
		_ = a.file.Close()
	}
}
