//! Runs float towers on generated images and texts and collects what their layers read: moments, or means.

use std::collections::BTreeMap;
use std::path::Path;

use spotter_engine::bundle::{TowerKind, Weights};
use spotter_engine::tower::Layer;

use crate::assemble::Assembled;
use crate::compare::threads;
use crate::error::Error;
use crate::moments::{TowerMoments, observed};
use crate::plan::{ChannelMeans, Plans};
use crate::probes;
use crate::progress::Tick;

/// Observes the towers of `float` that `plans` stores as int4. Of towers that do not run fused, nothing is known.
pub(crate) fn observe(
    float: &Assembled,
    plans: &Plans,
    scratch: &Path,
    tick: Tick<'_>,
) -> Result<[Option<TowerMoments>; 2], Error> {
    let wanted = |kind: TowerKind| plans.of(kind).weights == Weights::Int4;
    let [mut image, mut text] = [None, None];
    if wanted(TowerKind::Image) {
        let mut preprocessor = float.manifest.preprocessor()?;
        let tower = float.image_tower(&threads()?)?;
        let (images, mut pixels) = (probes::others(float.manifest.image_size()), Vec::new());
        let mut run = |take: &mut (dyn FnMut(&Layer, &[f32]) + Send)| {
            images.iter().try_for_each(|image| {
                tick();
                preprocessor.run(image, &mut pixels)?;
                tower.embed_showing(&pixels, take)?;
                Ok(())
            })
        };
        if tower.unfused().is_none() {
            image = Some(observed(&mut run, scratch)?);
        }
    }
    if wanted(TowerKind::Text) {
        let mut tower = float.text_tower(&threads()?)?;
        let fused = tower.unfused().is_none();
        let texts = probes::other_texts(float.manifest.tokenizer.max_length);
        let mut run = |take: &mut (dyn FnMut(&Layer, &[f32]) + Send)| {
            texts.iter().try_for_each(|text| {
                tick();
                tower.embed_showing(text, take)?;
                Ok(())
            })
        };
        if fused {
            text = Some(observed(&mut run, scratch)?);
        }
    }
    Ok([image, text])
}

/// The means of what the convolutions of `float`'s image tower read, if it is an imported CNN tower that runs fused and that
/// `plans` stores as int8.
pub(crate) fn channel_means(float: &Assembled, plans: &Plans, tick: Tick<'_>) -> Result<Option<ChannelMeans>, Error> {
    if plans.image.weights != Weights::Int8 {
        return Ok(None);
    }
    let tower = float.image_tower(&threads()?)?;
    if !tower.is_convolutional() {
        return Ok(None);
    }
    let (mut preprocessor, mut pixels) = (float.manifest.preprocessor()?, Vec::new());
    let mut sums: BTreeMap<String, (u64, Vec<f64>)> = BTreeMap::new();
    for image in probes::others(float.manifest.image_size()) {
        tick();
        preprocessor.run(&image, &mut pixels)?;
        tower.embed_showing(&pixels, &mut |layer, channels| {
            // Called for every pixel, so the name is copied only once.
            let Some((count, sums)) = sums.get_mut(&layer.name) else {
                sums.insert(layer.name.clone(), (1, channels.iter().copied().map(f64::from).collect()));
                return;
            };
            *count += 1;
            sums.iter_mut().zip(channels).for_each(|(sum, v)| *sum += f64::from(*v));
        })?;
    }
    let mean = |(name, (count, sums)): (String, (u64, Vec<f64>))| {
        (name, sums.into_iter().map(|sum| (sum / count as f64) as f32).collect())
    };
    Ok(Some(sums.into_iter().map(mean).collect()))
}
