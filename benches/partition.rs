//! Times the partition of 40,000 images among ranks with each strategy.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use niimpi::partition::{Strategy, partition};

const IMAGES: usize = 40_000;

fn share_out(criterion: &mut Criterion) {
    // Costs as in real studies: most images are similar, some a few times larger.
    let costs: Vec<f64> = (0..IMAGES)
        .map(|image| 0.1 * (1 + image * 7919 % 13) as f64)
        .collect();
    let mut group = criterion.benchmark_group("partition of 40,000");
    group.sample_size(20);
    for (name, strategy) in [
        ("block", Strategy::Block),
        ("cyclic", Strategy::Cyclic),
        ("size", Strategy::Size),
    ] {
        for ranks in [2, 64, 4096] {
            group.bench_function(BenchmarkId::new(name, ranks), |bencher| {
                bencher.iter(|| partition(strategy, black_box(&costs), ranks));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, share_out);
criterion_main!(benches);
