package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/net/ipv4"
)

const (
	clients = 4  // sockets
	window  = 64 // outstanding per socket
	batch   = 64 // per system call
)

// result counts the answers of one client.
type result struct {
	answered, lost           int
	micros                   []float64
	hit, nodata, nx, another int
}

// load prints answers per second, lost queries, p50 and p99 in microseconds, and the number of answers of each kind.
func load(addr, file, seconds, rate string) error {
	qs, err := readQuestions(file)
	if err != nil {
		return err
	}
	s, err1 := strconv.ParseFloat(seconds, 64)
	r, err2 := strconv.ParseFloat(rate, 64)
	if err1 != nil || err2 != nil {
		return fmt.Errorf("seconds %q, rate %q: expected numbers", seconds, rate)
	}
	var wg sync.WaitGroup
	results, errs := make([]result, clients), make([]error, clients)
	start := time.Now()
	for i := range clients {
		wg.Go(func() {
			c := &client{qs: qs, next: i * len(qs) / clients, rate: r / clients, start: start, end: time.Duration(s * 1e9)}
			results[i], errs[i] = c.run(addr)
		})
	}
	wg.Wait()
	took := time.Since(start).Seconds()
	var all result
	for i := range results {
		if errs[i] != nil {
			return errs[i]
		}
		all.add(results[i])
	}
	slices.Sort(all.micros)
	at := func(q float64) float64 {
		if len(all.micros) == 0 {
			return 0
		}
		return all.micros[int(q*float64(len(all.micros)-1))]
	}
	fmt.Printf("%.0f %d %.1f %.1f %d %d %d %d\n", float64(all.answered)/took, all.lost, at(.5), at(.99),
		all.hit, all.nodata, all.nx, all.another)
	return nil
}

func (r *result) add(o result) {
	r.answered, r.lost = r.answered+o.answered, r.lost+o.lost
	r.micros = append(r.micros, o.micros...)
	r.hit, r.nodata, r.nx, r.another = r.hit+o.hit, r.nodata+o.nodata, r.nx+o.nx, r.another+o.another
}

func readQuestions(file string) ([][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out [][]byte
	for sc := bufio.NewScanner(f); sc.Scan(); {
		name, typ, _ := strings.Cut(sc.Text(), " ")
		b, err := new(mdns.Msg).SetQuestion(name, mdns.StringToType[typ]).Pack()
		if err != nil {
			return nil, fmt.Errorf("question %q: %w", sc.Text(), err)
		}
		out = append(out, b)
	}
	return out, nil
}

// client sends queries on one socket, with up to window of them outstanding.
type client struct {
	qs      [][]byte
	next    int
	rate    float64
	start   time.Time
	end     time.Duration
	conn    *net.UDPConn
	packets *ipv4.PacketConn
	tx, rx  [batch]ipv4.Message
	sent    [1 << 16]time.Duration // time sent, by ID; 0: the ID is free
	id      uint16
	out     int
	issued  float64
	r       result
}

func (c *client) run(addr string) (result, error) {
	conn, err := net.Dial("udp4", addr)
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	c.conn = conn.(*net.UDPConn)
	_ = c.conn.SetReadBuffer(4 << 20)
	c.packets = ipv4.NewPacketConn(c.conn)
	for i := range batch {
		c.tx[i].Buffers = [][]byte{make([]byte, 0, 512)}
		c.rx[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	for time.Since(c.start) < c.end {
		if err := c.send(); err != nil {
			return c.r, err
		}
		c.receive()
	}
	if c.rate > 0 {
		c.r.lost += c.out
	}
	return c.r, nil
}

func (c *client) send() error {
	now := time.Since(c.start) + 1
	n := window - c.out
	if c.rate > 0 {
		n = min(4*window-c.out, int(now.Seconds()*c.rate-c.issued))
	}
	n = min(n, batch)
	for i := range max(n, 0) {
		for c.sent[c.id] != 0 {
			c.id++
		}
		b := append(c.tx[i].Buffers[0][:0], c.qs[c.next]...)
		b[0], b[1] = byte(c.id>>8), byte(c.id)
		c.tx[i].Buffers[0] = b
		c.sent[c.id] = now
		c.id++
		c.next = (c.next + 1) % len(c.qs)
	}
	for o := 0; o < n; {
		w, err := c.packets.WriteBatch(c.tx[o:n], 0)
		if err != nil {
			return err
		}
		o += w
	}
	if n > 0 {
		c.out += n
		c.issued += float64(n)
	}
	return nil
}

func (c *client) receive() {
	wait := 200 * time.Millisecond
	if c.rate > 0 {
		wait = 100 * time.Microsecond
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(wait))
	n, err := c.packets.ReadBatch(c.rx[:], 0)
	now := time.Since(c.start) + 1
	if err != nil {
		if c.rate == 0 { // all of them are lost
			c.r.lost += c.out
			c.out = 0
			clear(c.sent[:])
		}
		return
	}
	for i := range n {
		if b := c.rx[i].Buffers[0][:c.rx[i].N]; len(b) >= 12 {
			c.take(b, now)
		}
	}
}

func (c *client) take(b []byte, now time.Duration) {
	id := uint16(b[0])<<8 | uint16(b[1])
	if c.sent[id] == 0 {
		return
	}
	c.r.micros = append(c.r.micros, float64(now-c.sent[id])/1e3)
	c.sent[id] = 0
	c.out--
	c.r.answered++
	switch {
	case b[3]&15 == mdns.RcodeNameError:
		c.r.nx++
	case b[3]&15 != 0:
		c.r.another++
	case b[6]|b[7] == 0:
		c.r.nodata++
	default:
		c.r.hit++
	}
}
