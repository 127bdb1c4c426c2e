package servicelb

// vacant takes a free place. The last quarter is for flows that have been answered. mu is locked.
func (s *offloads) vacant(unproven bool) (n uint32, ok bool) {
	if unproven && s.short() {
		return 0, false
	}
	if last := len(s.free) - 1; last >= 0 {
		n, s.free = s.free[last], s.free[:last]
	} else if s.high < uint32(len(s.places)) {
		n = s.high
		s.high++
	} else {
		s.full.Store(true)
		return 0, false
	}
	s.used++
	return n, true
}

// short reports whether less than a quarter of the places is free. mu is locked.
func (s *offloads) short() bool { return s.used*4 >= len(s.places)*3 }

// leave takes a flow out of the path. Its shard is locked, or it is no longer linked.
func (s *offloads) leave(slot uint32) {
	if s.path == nil {
		return
	}
	if n := s.of[slot].Swap(0); n != 0 && n < marks {
		s.retire(n - 1)
	}
}

// retire disarms a place that belongs to no flow any more.
func (s *offloads) retire(n uint32) {
	s.path.State(n).Armed.Store(0)
	s.mu.Lock()
	s.leaving = append(s.leaving, n)
	s.mu.Unlock()
}

// reap frees the places that were left before the last tick, one by one: packets of new flows wait for mu.
func (s *offloads) reap() {
	for s.reapOne() {
	}
	s.mu.Lock()
	s.left, s.leaving = s.leaving, s.left
	s.mu.Unlock()
}

func (s *offloads) reapOne() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.left) - 1
	if last < 0 {
		return false
	}
	s.clear(s.left[last])
	s.left = s.left[:last]
	return true
}

// clear removes what a place wrote into the path's table, unless another flow has overwritten it. mu is locked.
func (s *offloads) clear(n uint32) {
	p := &s.places[n]
	for way := range p.ways {
		if k := p.key(way); s.owners[k] == n {
			delete(s.owners, k)
			s.path.Delete(p.proto, &p.ways[way])
		}
	}
	s.free = append(s.free, n)
	s.used--
	s.full.Store(false)
}
